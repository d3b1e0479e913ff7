use super::*;
use crate::{raft::recover::Fresh, world::World};
use heddle_model::Timestamp;
use std::os::unix::fs::FileExt;

fn key() -> Key {
    Key::new([7; 32])
}

/// A database that holds a cluster of one manager, and its directory.
async fn made() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft/raft.redb");
    let mut world = World::new();
    let node = world.ready_nodes(20).pop().unwrap();
    let fresh: Fresh = recover::alone(&world.state, Vec::new(), Timestamp(1), &node, 1).unwrap();
    let log = open_empty(file.parent().unwrap(), &key()).await.unwrap();
    log.replace(fresh).await.unwrap();
    drop(log);
    closed(&file).await;
    (dir, file)
}

/// The writer has its own thread.
async fn closed(file: &Path) {
    assert!(matches!(read(file, &key()).await.unwrap(), (Some(_), _)));
}

fn kept(file: &Path) -> usize {
    let all = fs::read_dir(file.parent().unwrap()).unwrap();
    all.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("damaged")).count()
}

#[test]
fn only_who_has_others_begins_anew() {
    let damaged = || Found::Damaged("x".into());
    assert_eq!(judge(Found::Whole, false), Verdict::GoOn);
    assert_eq!(judge(Found::Whole, true), Verdict::GoOn);
    assert_eq!(judge(Found::Nothing, true), Verdict::Anew);
    assert_eq!(judge(damaged(), true), Verdict::Anew);
    assert_eq!(judge(Found::Nothing, false), Verdict::Refuse("nothing is stored".into()));
    assert_eq!(judge(damaged(), false), Verdict::Refuse("x".into()));
}

#[tokio::test]
async fn what_is_whole_goes_on() {
    let (_dir, file) = made().await;
    let (_log, lapsed) = open(file.parent().unwrap(), &key(), true).await.unwrap();
    assert!(!lapsed);
}

#[tokio::test]
async fn what_was_never_there_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let raft = dir.path().join("raft");
    let said = open(&raft, &key(), false).await.err().unwrap().to_string();
    assert!(said.contains("is damaged (nothing is stored), and no other manager is known"), "{said}");
    let (_log, lapsed) = open(&raft, &key(), true).await.unwrap();
    assert!(lapsed, "who had this number before may have promised something");
}

#[tokio::test]
async fn what_another_key_encrypted_is_damaged() {
    let (_dir, file) = made().await;
    let (dir, other) = (file.parent().unwrap(), Key::new([8; 32]));
    let said = open(dir, &other, false).await.err().unwrap().to_string();
    assert!(said.contains("is damaged (a stored row does not decrypt)"), "{said}");
    let (log, lapsed) = open(dir, &other, true).await.unwrap();
    assert!(lapsed && log.stored().unwrap().vote.is_none());
    assert_eq!(kept(&file), 1);
}

/// Wherever the file is wrong, it is either found and put aside, or not a byte that counts.
#[tokio::test]
async fn every_damaged_page_is_found() {
    let (_dir, file) = made().await;
    let whole = fs::read(&file).unwrap();
    let dir = file.parent().unwrap();
    let state = |log: &LogStore| recover::newest(&log.stored().unwrap()).unwrap().0;
    let (log, _) = open(dir, &key(), true).await.unwrap();
    let was = state(&log);
    drop(log);
    let mut found = 0;
    for page in 0..whole.len() / 4096 {
        fs::write(&file, &whole).unwrap();
        let disk = fs::OpenOptions::new().write(true).open(&file).unwrap();
        disk.write_all_at(&[0x55; 512], page as u64 * 4096 + 64).unwrap();
        let before = kept(&file);
        // Alone, it says so and changes nothing.
        match open(dir, &key(), false).await {
            Ok((log, lapsed)) => assert!(!lapsed && state(&log) == was, "page {page}"),
            Err(error) => {
                assert!(error.to_string().contains("is damaged"), "{error}");
                assert_eq!(kept(&file), before);
                let (log, lapsed) = open(dir, &key(), true).await.unwrap();
                assert!(lapsed && log.stored().unwrap().vote.is_none());
                assert_eq!(kept(&file), before + 1);
                found += 1;
            }
        }
    }
    assert!(found > 0);
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(open(dir, &key(), false).await, Err(OpenError::Lost { .. })), "cut short");
}
