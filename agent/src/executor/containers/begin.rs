//! From the name of an image to a program that runs.

use super::{CONTAINER, ContainerTask, Containers, FromImage, Kept, MEMORY, Phase};
use crate::{
    executor::{
        group,
        memory::Drafts,
        record::{self, SPEC},
    },
    volumes,
};
use heddle_engine::{
    EngineError,
    container::Begins,
    image::{self, Image},
    spec::Volume,
};
use heddle_model::{
    TaskId,
    container::{Mount, MountSource, StopSignal, User},
};
use nix::sys::signal::Signal;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tokio::sync::watch;

/// How far a program has come.
pub(super) enum Begun {
    Runs(u32),
    /// By a signal that came before anything of a container was made.
    Cancelled(Signal),
    /// containerd has gone while its container was made.
    Unclear,
}

impl Containers {
    pub(super) async fn begin(
        &self,
        task: &TaskId,
        what: ContainerTask,
        mut cancelled: watch::Receiver<Option<Signal>>,
    ) -> Result<Begun, EngineError> {
        // Whoever has begun to make a container makes all of it: what is half made nobody could take away.
        let image = tokio::select! {
            image = self.pull(task, &what.image) => image?,
            signal = cancelled.wait_for(Option::is_some) => {
                return Ok(Begun::Cancelled(signal.ok().and_then(|s| *s).unwrap_or(Signal::SIGKILL)));
            }
        };
        self.reach(task, Phase::Preparing("starting its container".into()));
        let dir = self.task_dir(task);
        let mut run = what.run;
        let files = dir.join("files");
        fs::create_dir_all(&files)?;
        for (number, (target, content)) in what.beside.files.iter().enumerate() {
            let path = files.join(number.to_string());
            fs::write(&path, content)?;
            // Whoever the program is, and whatever this daemon's umask.
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
            run.files.push((path, target.clone()));
        }
        let program = &image.config.config;
        for target in program.open_volumes(&run.container.mounts) {
            let data = volumes::anonymous(&dir, run.container.mounts.len())?;
            let source = MountSource::Bind(data.display().to_string());
            run.container.mounts.push(Mount { source, target: target.clone(), read_only: false });
            run.volumes.push(Volume { data, target });
        }
        let signal = program.stop_signal.as_deref().filter(|_| run.container.stop_signal.is_none());
        let stop_signal = signal.and_then(|s| s.parse::<StopSignal>().ok());
        let kept = Kept { stop_signal, health: program.health_check() };
        record::write(&dir.join(CONTAINER), &kept)?;
        group::prepare(&run.resources)?;
        // Until the container has them.
        let (_drafts, secret) = match what.secret.as_slice() {
            [] => (None, Vec::new()),
            files => {
                let (drafts, made) = Drafts::make(dir.join(MEMORY), files)?;
                (Some(drafts), made)
            }
        };
        run.files.extend(secret);
        // Whatever is run beside it is who the program is.
        let note = |begins: &Begins| {
            let mut beside = what.beside;
            beside.env.clone_from(&begins.env);
            beside.dir = run.dir.clone().or_else(|| Some(program.working_dir.clone()).filter(|dir| !dir.is_empty()));
            let user = User { name: begins.ids.uid.to_string(), group: Some(begins.ids.gid.to_string()) };
            beside.container.user = Some(user);
            beside.container.groups = begins.ids.groups.iter().map(ToString::to_string).collect();
            beside.container.cap_drop = run.denied();
            record::write(&dir.join(SPEC), &beside)
        };
        match self.0.engine.start(task.as_str(), &image, &run, &self.output(&dir), note).await {
            Ok(pid) => Ok(Begun::Runs(pid)),
            Err(error) if error.is_silent() => Ok(Begun::Unclear),
            Err(error) => Err(error),
        }
    }

    /// containerd's shim starts it, and gives it what it is called as the name of an argument.
    fn output(&self, dir: &Path) -> String {
        format!("binary://{}?task-log={}", self.0.shim.display(), dir.display())
    }

    async fn pull(&self, task: &TaskId, what: &FromImage) -> Result<Image, EngineError> {
        let (name, login) = (&what.spec.image, what.login.as_ref());
        let reference = image::reference(name);
        if !what.newest
            && let Some(image) = self.0.engine.image(&reference).await?
        {
            return Ok(image);
        }
        let tell = |progress| self.reach(task, Phase::Preparing(format!("{name}: {progress}")));
        match self.0.engine.pull_telling(&reference, image::auth(login), tell).await {
            Err(error) if error.is_of_registry() => match self.0.engine.image(&reference).await? {
                // As docker: what is here is better than nothing.
                Some(image) => {
                    tracing::warn!(image = %name, %error, "an image is used as it is here: its registry does not give it");
                    Ok(image)
                }
                // By the name that was asked for.
                None => Err(match error {
                    EngineError::Image { why, .. } => EngineError::Image { reference: name.to_string(), why },
                    other => other,
                }),
            },
            other => other,
        }
    }
}
