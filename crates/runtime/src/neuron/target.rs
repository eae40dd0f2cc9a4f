//! The kinds of Neuron instance: what each has and allows, as data.
//!
//! Sources: AWS Neuron documentation, "Logical NeuronCore configuration", "Neuron data types", "Trainium2/3 architecture",
//! compiler error codes EARG001, EVRF005, EVRF051, EVRF052; `nrt.h` for the family numbers.

use std::fmt;
use std::str::FromStr;

use super::error::NeuronError;

/// An instance family, by the name that `neuronx-cc --target` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Trainium.
    Trn1,
    /// Trainium with the wider network.
    Trn1n,
    /// Inferentia2, the same cores as Trainium.
    Inf2,
    /// Trainium2.
    Trn2,
    /// Trainium3.
    Trn3,
}

/// An 8-bit float, by its name in StableHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// `f8E3M4`.
    E3M4,
    /// `f8E4M3`, with infinities.
    E4M3,
    /// `f8E4M3FN`, without.
    E4M3FN,
    /// `f8E5M2`.
    E5M2,
}

/// What a target has and allows.
#[derive(Clone, Copy, Debug)]
pub struct TargetFacts {
    /// The target that this describes.
    pub target: Target,
    /// Its name for the compiler.
    pub name: &'static str,
    /// Generation of its cores; programs run on every target of a generation.
    pub generation: u32,
    /// Physical cores of one chip.
    pub cores_per_chip: u32,
    /// Physical cores that a logical core may have.
    pub logical_cores: &'static [u32],
    /// What it is when nothing is said.
    pub default_logical_core: u32,
    /// 8-bit floats that the compiler takes for it.
    pub fp8: &'static [Fp8],
    /// Whether `--native-int64` exists; without it 64-bit integers become 32-bit ones.
    pub native_int64: bool,
    /// `nrt_instance_info.family` numbers that are this target.
    families: &'static [u32],
}

const V2_FP8: &[Fp8] = &[Fp8::E3M4, Fp8::E4M3, Fp8::E5M2];
const V4_FP8: &[Fp8] = &[Fp8::E3M4, Fp8::E4M3, Fp8::E4M3FN, Fp8::E5M2];

/// Trn1, Inf2: cores of the second generation.
const V2: TargetFacts = TargetFacts {
    target: Target::Trn1,
    name: "trn1",
    generation: 2,
    cores_per_chip: 2,
    logical_cores: &[1],
    default_logical_core: 1,
    fp8: V2_FP8,
    native_int64: false,
    families: &[2],
};

const V3: TargetFacts = TargetFacts {
    target: Target::Trn2,
    name: "trn2",
    generation: 3,
    cores_per_chip: 8,
    logical_cores: &[1, 2],
    default_logical_core: 2,
    fp8: V2_FP8,
    native_int64: true,
    families: &[5, 6, 8, 9, 10, 11, 12, 13],
};

/// Every target.
pub const TARGETS: [TargetFacts; 5] = [
    V2,
    TargetFacts { target: Target::Trn1n, name: "trn1n", families: &[3], ..V2 },
    TargetFacts { target: Target::Inf2, name: "inf2", families: &[4, 7], ..V2 },
    V3,
    TargetFacts { target: Target::Trn3, name: "trn3", generation: 4, fp8: V4_FP8, families: &[14, 15], ..V3 },
];

impl Target {
    /// What this target has and allows.
    pub fn facts(self) -> &'static TargetFacts {
        match self {
            Self::Trn1 => &TARGETS[0],
            Self::Trn1n => &TARGETS[1],
            Self::Inf2 => &TARGETS[2],
            Self::Trn2 => &TARGETS[3],
            Self::Trn3 => &TARGETS[4],
        }
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        TARGETS.map(|facts| facts.name).join(", ")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.facts().name)
    }
}

impl FromStr for Target {
    type Err = NeuronError;

    fn from_str(name: &str) -> Result<Self, NeuronError> {
        let found = TARGETS.iter().find(|facts| facts.name == name);
        found.map(|facts| facts.target).ok_or_else(|| NeuronError::UnknownTarget { name: name.to_owned() })
    }
}

/// What `nrt_get_instance_info` says of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// libnrt's number of the family; 0 is unknown.
    pub family: u32,
    /// libnrt's number of the instance size.
    pub size: u32,
    /// The architecture's name in libnrt's words; empty in older libraries.
    pub architecture: String,
    /// The chip's revision in libnrt's words; empty in older libraries.
    pub revision: String,
}

impl Instance {
    /// The target that code for this machine is compiled for: by the family number, else (a family newer than this
    /// table) by the architecture's name.
    pub fn target(&self) -> Option<Target> {
        let by_number = TARGETS.iter().find(|facts| facts.families.contains(&self.family));
        let name = self.architecture.to_ascii_lowercase();
        // The longest name wins: `trn1n` also begins with `trn1`.
        let by_name =
            || TARGETS.iter().filter(|facts| name.starts_with(facts.name)).max_by_key(|facts| facts.name.len());
        by_number.or_else(by_name).map(|facts| facts.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(family: u32, architecture: &str) -> Instance {
        Instance { family, size: 0, architecture: architecture.to_owned(), revision: String::new() }
    }

    #[test]
    fn every_target_has_its_own_row_and_reads_back_from_its_name() {
        for facts in &TARGETS {
            assert_eq!(facts.target.facts().name, facts.name);
            assert_eq!(facts.name.parse::<Target>().unwrap(), facts.target);
            assert!(facts.logical_cores.contains(&facts.default_logical_core));
            assert!(facts.logical_cores.iter().all(|size| facts.cores_per_chip.is_multiple_of(*size)));
        }
        let error = "gpu".parse::<Target>().unwrap_err().to_string();
        assert_eq!(error, "`gpu` is no Neuron target; known are trn1, trn1n, inf2, trn2, trn3");
    }

    #[test]
    fn the_fn_form_of_e4m3_begins_with_trainium3() {
        for facts in &TARGETS {
            assert_eq!(facts.fp8.contains(&Fp8::E4M3FN), facts.target == Target::Trn3, "{}", facts.name);
        }
    }

    #[test]
    fn an_instance_is_known_by_family_then_by_name() {
        assert_eq!(instance(9, "").target(), Some(Target::Trn2));
        assert_eq!(instance(3, "trn2").target(), Some(Target::Trn1n), "the number decides");
        assert_eq!(instance(77, "TRN1N").target(), Some(Target::Trn1n));
        assert_eq!(instance(77, "trn3x").target(), Some(Target::Trn3));
        assert_eq!(instance(0, "").target(), None);
        assert_eq!(instance(1, "inf1").target(), None, "Inferentia 1 is another compiler");
    }
}
