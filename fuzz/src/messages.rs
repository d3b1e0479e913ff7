//! Random messages of a protocol: whole in form, and in most fields plausible.

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use rand::{RngExt, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet};

/// Texts that may stand in a field, by the names of message and field.
pub type Words = fn(&str, &str) -> &'static [&'static str];

/// Messages within messages; beyond that there are none.
const DEPTH: usize = 8;
/// How often a field that may be absent is.
const ABSENT: f64 = 0.04;
/// How often a field has what is not plausible.
const ODD: f64 = 0.01;
const ODD_TEXTS: &[&str] =
    &["", "\0", "\u{e9}\u{301}", "../../etc", "a b", "-", "%s%n", "10.1.0.0/33", "::ffff:1.2.3.4%x"];
const NUMBERS: &[u64] = &[0, 1, 2, 3, 80, 255, 256, 1280, 4096, 65_535];
const ODD_NUMBERS: &[u64] = &[65_536, 1 << 24, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX];

/// All messages of a protocol.
pub struct Messages {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    words: Words,
}

impl Messages {
    /// From an encoded `google.protobuf.FileDescriptorSet`.
    ///
    /// # Panics
    /// If it is none.
    pub fn new(descriptors: &[u8], words: Words) -> Self {
        let set = FileDescriptorSet::decode(descriptors).expect("these are descriptors");
        let mut all = Self { messages: BTreeMap::new(), enums: BTreeMap::new(), words };
        for file in set.file {
            let package = format!(".{}", file.package());
            all.add_enums(&package, &file.enum_type);
            file.message_type.iter().for_each(|m| all.add(&package, m));
        }
        all
    }

    fn add_enums(&mut self, within: &str, enums: &[EnumDescriptorProto]) {
        self.enums.extend(enums.iter().map(|e| (format!("{within}.{}", e.name()), e.clone())));
    }

    fn add(&mut self, within: &str, message: &DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        self.add_enums(&name, &message.enum_type);
        message.nested_type.iter().for_each(|m| self.add(&name, m));
        self.messages.insert(name, message.clone());
    }

    /// One message, such as `heddle.v1.Task`, encoded.
    ///
    /// # Panics
    /// If there is no such message.
    pub fn random(&self, name: &str, random: &mut StdRng) -> Vec<u8> {
        self.message(&format!(".{name}"), DEPTH, random)
    }

    fn message(&self, name: &str, depth: usize, random: &mut StdRng) -> Vec<u8> {
        let message = self.messages.get(name).unwrap_or_else(|| panic!("no message is called {name}"));
        let chosen = chosen(message, random);
        let mut out = Vec::new();
        for (index, field) in message.field.iter().enumerate() {
            let one = field.oneof_index.is_some() && !field.proto3_optional();
            let count = match field.label() {
                _ if one => usize::from(chosen.contains(&index)),
                Label::Repeated => random.random_range(0..=2),
                Label::Optional | Label::Required => usize::from(!random.random_bool(ABSENT)),
            };
            for _ in 0..count {
                self.field(name, field, depth, random, &mut out);
            }
        }
        out
    }

    fn field(&self, of: &str, field: &FieldDescriptorProto, depth: usize, random: &mut StdRng, out: &mut Vec<u8>) {
        let tag = field.number().unsigned_abs();
        let bytes = match field.r#type() {
            Type::Message if depth == 0 => return,
            Type::Message => self.message(field.type_name(), depth - 1, random),
            Type::String => self.text(of, field.name(), random).into(),
            Type::Bytes => super::noise(random),
            kind => {
                encode_key(tag, WireType::Varint, out);
                return encode_varint(self.number(kind, field.type_name(), random), out);
            }
        };
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.extend(bytes);
    }

    fn text(&self, message: &str, field: &str, random: &mut StdRng) -> &'static str {
        let message = message.rsplit('.').next().unwrap_or(message);
        let words = if random.random_bool(ODD) { ODD_TEXTS } else { (self.words)(message, field) };
        words[random.random_range(0..words.len())]
    }

    fn number(&self, kind: Type, name: &str, random: &mut StdRng) -> u64 {
        let among = |numbers: &[u64], random: &mut StdRng| numbers[random.random_range(0..numbers.len())];
        match (kind, self.enums.get(name)) {
            (Type::Bool, _) => random.random_range(0..=1),
            (Type::Enum, Some(values)) if random.random_bool(ODD) => values.value.len() as u64,
            // The first is for what is not said.
            (Type::Enum, Some(values)) => random.random_range(1..values.value.len() as u64),
            _ if random.random_bool(ODD) => among(ODD_NUMBERS, random),
            _ => among(NUMBERS, random),
        }
    }
}

/// Of each choice between fields, the one that is there.
fn chosen(message: &DescriptorProto, random: &mut StdRng) -> BTreeSet<usize> {
    let mut choices: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (index, field) in message.field.iter().enumerate().filter(|(_, f)| !f.proto3_optional()) {
        choices.entry(field.oneof_index.unwrap_or(-1)).or_default().push(index);
    }
    choices.remove(&-1);
    choices.values().map(|fields| fields[random.random_range(0..fields.len())]).collect()
}
