//! What the environment must hold before the Neuron plugin is loaded: worked out from options, machine and what the user
//! has set already, then set in one place.
//!
//! [`plan`] is a pure function. What the user has set stays; where it contradicts an option, or itself, that is an error
//! that names both. A plan of an environment that a plan was applied to is empty.
//!
//! Sources: AWS Neuron documentation ("Runtime configuration", "JAX NeuronX environment variables", "neuronx-cc CLI
//! reference"), and what other clients of the plugin set.
#![allow(unsafe_code, reason = "the one place that sets environment variables")]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::error::NeuronError;
use super::target::Target;

const PATH: &str = "PATH";
const ROOT: &str = "NEURON_RT_ROOT_COMM_ID";
const COMPILER_FLAGS: &str = "NEURON_CC_FLAGS";
const PJRT_VERSION: &str = "NEURON_INTERNAL_PJRT_C_API_VERSION";
const STOCHASTIC_ROUNDING: &str = "NEURON_RT_STOCHASTIC_ROUNDING_EN";
const VISIBLE_CORES: &str = "NEURON_RT_VISIBLE_CORES";
const NUM_CORES: &str = "NEURON_RT_NUM_CORES";
const LOGICAL_CORE: &str = "NEURON_LOGICAL_NC_CONFIG";
const OLD_LOGICAL_CORE: &str = "NEURON_RT_VIRTUAL_CORE_SIZE";
const PROCESS_DEVICES: &str = "NEURON_PJRT_PROCESSES_NUM_DEVICES";
const PROCESS_INDEX: &str = "NEURON_PJRT_PROCESS_INDEX";

/// What the caller asks for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The instance family; found on the machine when absent.
    pub target: Option<Target>,
    /// Physical cores in a logical one; the user's setting, else the target's default, when absent.
    pub logical_core: Option<u32>,
    /// The cores to take.
    pub cores: Cores,
    /// `neuronx-cc --optlevel`, 1 to 3; the compiler's default when absent.
    pub optimization: Option<u32>,
    /// Several processes as one set of devices.
    pub processes: Option<Processes>,
}

/// Logical cores to take.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Cores {
    /// What the environment leaves, by default all.
    #[default]
    Free,
    /// So many, whichever are free.
    Count(u32),
    /// These.
    Range(RangeInclusive<u32>),
}

/// This process among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processes {
    /// Devices of each process.
    pub devices: Vec<u32>,
    /// Which of them this one is.
    pub index: usize,
}

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its family, if libnrt knows it.
    pub target: Option<Target>,
    /// The `neuronx-cc` program.
    pub compiler: PathBuf,
    /// A TCP port of this host that nobody listens on.
    pub free_port: u16,
    /// The PJRT header that the caller was written against, major and minor.
    pub pjrt_header: (i32, i32),
}

/// One variable to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub variable: &'static str,
    /// Its value.
    pub value: OsString,
    /// Why it is needed.
    pub reason: &'static str,
}

/// What to set, in order, before the plugin is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family that programs are compiled for.
    pub target: Target,
    /// Physical cores in a logical one.
    pub logical_core: u32,
    /// The variables.
    pub settings: Vec<Setting>,
}

/// Works out what to set. `current` reads the environment.
///
/// # Errors
///
/// Settings that cannot be understood, that the target does not have, or that contradict each other.
pub fn plan(options: &Options, current: impl Fn(&str) -> Option<OsString>, facts: &Facts) -> Result<Plan, NeuronError> {
    let current = Current(&current);
    let user_flags = current.text(COMPILER_FLAGS)?.unwrap_or_default();
    let target = target(options, facts, &user_flags)?;
    let logical_core = logical_core(options, &current, &user_flags, target)?;
    let mut plan = Plan { target, logical_core, settings: Vec::new() };
    search_path(&mut plan, &current, &facts.compiler)?;
    meeting_point(&mut plan, &current, options, facts)?;
    compiler_flags(&mut plan, options, &user_flags)?;
    let (major, minor) = facts.pjrt_header;
    let reason = "the plugin compares struct sizes with those of this header";
    plan.fixed(&current, PJRT_VERSION, format!("{major}.{minor}"), "the PJRT header of this program", reason)?;
    if current.text(STOCHASTIC_ROUNDING)?.is_none() {
        plan.set(STOCHASTIC_ROUNDING, "0", "the same request gives the same answer");
    }
    cores(&mut plan, &current, &options.cores)?;
    if target.facts().logical_cores.len() > 1 && current.text(LOGICAL_CORE)?.is_none() {
        plan.set(LOGICAL_CORE, logical_core.to_string(), "compiler and runtime must agree");
    }
    if let Some(processes) = &options.processes {
        several_processes(&mut plan, &current, processes)?;
    }
    Ok(plan)
}

impl Plan {
    /// Sets the variables of this process, before anything of it has started a thread: the C libraries that read them
    /// do so without a lock. Does nothing when all of them are set already.
    ///
    /// ```standalone_crate
    /// use nxd_runtime::neuron::Target;
    /// use nxd_runtime::neuron::environment::{Facts, Options, plan};
    /// use nxd_runtime::pjrt::HEADER_VERSION;
    ///
    /// let facts = Facts {
    ///     target: Some(Target::Trn2),
    ///     compiler: "/opt/venv/bin/neuronx-cc".into(),
    ///     free_port: 46820,
    ///     pjrt_header: HEADER_VERSION,
    /// };
    /// let current = |variable: &str| std::env::var_os(variable);
    /// plan(&Options::default(), current, &facts)?.apply()?;
    /// assert_eq!(std::env::var("NEURON_LOGICAL_NC_CONFIG").as_deref(), Ok("2"));
    /// assert!(plan(&Options::default(), current, &facts)?.settings.is_empty());
    /// # Ok::<(), nxd_runtime::neuron::NeuronError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The process has other threads and something is missing; the text has the shell commands that set it.
    pub fn apply(&self) -> Result<(), NeuronError> {
        self.apply_with(thread_count())
    }

    /// The shell commands that set the same.
    pub fn exports(&self) -> String {
        exports(self.settings.iter())
    }

    fn apply_with(&self, threads: usize) -> Result<(), NeuronError> {
        let is_missing = |setting: &&Setting| env::var_os(setting.variable).as_ref() != Some(&setting.value);
        let missing: Vec<&Setting> = self.settings.iter().filter(is_missing).collect();
        if threads != 1 && !missing.is_empty() {
            return Err(NeuronError::TooLate { threads, exports: exports(missing.into_iter()) });
        }
        for Setting { variable, value, reason } in missing {
            tracing::debug!(variable, ?value, reason, "environment set");
            // SAFETY: this is the only thread of the process, so nobody reads or writes the environment meanwhile.
            unsafe { env::set_var(variable, value) };
        }
        Ok(())
    }

    fn set(&mut self, variable: &'static str, value: impl Into<OsString>, reason: &'static str) {
        self.settings.push(Setting { variable, value: value.into(), reason });
    }

    /// Sets a variable that may only have this one value.
    fn fixed<F: Fn(&str) -> Option<OsString>>(
        &mut self,
        current: &Current<'_, F>,
        variable: &'static str,
        value: String,
        who: &str,
        reason: &'static str,
    ) -> Result<(), NeuronError> {
        match current.text(variable)? {
            None => self.set(variable, value, reason),
            Some(found) if found == value => {}
            Some(found) => {
                return Err(conflict(format!("`{variable}` is `{found}`"), format!("{who} is `{value}`")));
            }
        }
        Ok(())
    }
}

/// The threads of this process; 0 where the system does not say.
fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn exports<'a>(settings: impl Iterator<Item = &'a Setting>) -> String {
    let quote = |value: &OsStr| format!("'{}'", value.to_string_lossy().replace('\'', r"'\''"));
    settings
        .map(|setting| format!("export {}={}", setting.variable, quote(&setting.value)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The environment as it is.
struct Current<'a, F>(&'a F);

impl<F: Fn(&str) -> Option<OsString>> Current<'_, F> {
    /// A variable's text; an empty one counts as not set.
    fn text(&self, variable: &'static str) -> Result<Option<String>, NeuronError> {
        let Some(value) = (self.0)(variable) else { return Ok(None) };
        match value.into_string() {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(value) => Err(bad(variable, &value.to_string_lossy(), "UTF-8")),
        }
    }

    fn number(&self, variable: &'static str) -> Result<Option<u32>, NeuronError> {
        let parse = |text: String| text.trim().parse().map_err(|_| bad(variable, &text, "a number"));
        self.text(variable)?.map(parse).transpose()
    }
}

fn bad(variable: &'static str, value: &str, expected: &'static str) -> NeuronError {
    NeuronError::Variable { variable, value: value.to_owned(), expected }
}

fn conflict(one: String, other: String) -> NeuronError {
    NeuronError::Conflict { one, other }
}

/// The first of option, machine and flags. Families of one core generation run each other's programs.
fn target(options: &Options, facts: &Facts, flags: &str) -> Result<Target, NeuronError> {
    let flag = flag_value(flags, &["--target"]).map(str::parse::<Target>).transpose()?;
    let claims = [
        ("the option `target`", options.target),
        ("this machine", facts.target),
        ("`--target` in `NEURON_CC_FLAGS`", flag),
    ];
    let mut claims = claims.into_iter().filter_map(|(who, target)| Some((who, target?)));
    let (first, target) = claims.next().ok_or(NeuronError::NoTarget)?;
    for (who, other) in claims {
        if other.facts().generation != target.facts().generation {
            return Err(conflict(format!("{first} is {target}"), format!("{who} is {other}")));
        }
    }
    Ok(target)
}

/// What everybody who names a size agrees on, else the target's default.
fn logical_core<F: Fn(&str) -> Option<OsString>>(
    options: &Options,
    current: &Current<'_, F>,
    flags: &str,
    target: Target,
) -> Result<u32, NeuronError> {
    let flag = flag_value(flags, LOGICAL_CORE_FLAGS)
        .map(|text| text.parse::<u32>().map_err(|_| bad(COMPILER_FLAGS, flags, "flags in which `--lnc` has a number")));
    let claims = [
        ("the option `logical_core`", options.logical_core),
        ("`NEURON_LOGICAL_NC_CONFIG`", current.number(LOGICAL_CORE)?),
        ("`NEURON_RT_VIRTUAL_CORE_SIZE`", current.number(OLD_LOGICAL_CORE)?),
        ("`--lnc` in `NEURON_CC_FLAGS`", flag.transpose()?),
    ];
    let facts = target.facts();
    let mut agreed: Option<(&str, u32)> = None;
    for (named, size) in claims {
        let Some(found) = size else { continue };
        if !facts.logical_cores.contains(&found) {
            let allowed = facts.logical_cores.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            return Err(NeuronError::LogicalCores { target, found, named, allowed });
        }
        match agreed {
            Some((first, size)) if size != found => {
                return Err(conflict(format!("{first} is {size}"), format!("{named} is {found}")));
            }
            _ => agreed = agreed.or(Some((named, found))),
        }
    }
    Ok(agreed.map_or(facts.default_logical_core, |(_, size)| size))
}

/// The plugin calls the compiler by its name.
fn search_path<F: Fn(&str) -> Option<OsString>>(
    plan: &mut Plan,
    current: &Current<'_, F>,
    compiler: &Path,
) -> Result<(), NeuronError> {
    let Some(folder) = compiler.parent().filter(|folder| folder.is_absolute()) else {
        let found = format!("`{}`", compiler.display());
        return Err(NeuronError::BadOption { option: "compiler", found, expected: "an absolute path" });
    };
    let path = (current.0)(PATH).unwrap_or_default();
    if env::split_paths(&path).any(|entry| entry == folder) {
        return Ok(());
    }
    let entries = env::split_paths(&path).filter(|entry| !entry.as_os_str().is_empty());
    let joined = env::join_paths(std::iter::once(folder.to_owned()).chain(entries)).map_err(|_| {
        let found = format!("`{}`", compiler.display());
        NeuronError::BadOption { option: "compiler", found, expected: "a path without a colon" }
    })?;
    plan.set(PATH, joined, "the plugin calls `neuronx-cc`");
    Ok(())
}

/// Collectives meet at an address, also within one process.
fn meeting_point<F: Fn(&str) -> Option<OsString>>(
    plan: &mut Plan,
    current: &Current<'_, F>,
    options: &Options,
    facts: &Facts,
) -> Result<(), NeuronError> {
    if let Some(root) = current.text(ROOT)? {
        let port = root.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        return match port {
            Some(Ok(1..)) => Ok(()),
            _ => Err(bad(ROOT, &root, "`<host>:<port>`")),
        };
    }
    if options.processes.as_ref().is_some_and(|processes| processes.devices.len() > 1) {
        return Err(NeuronError::NoMeetingPoint);
    }
    plan.set(ROOT, format!("127.0.0.1:{}", facts.free_port), "ranks of this process meet here");
    Ok(())
}

const LOGICAL_CORE_FLAGS: &[&str] = &["--lnc", "-lnc", "--logical-nc-config"];

/// The user's flags, and those of ours that they do not name.
fn compiler_flags(plan: &mut Plan, options: &Options, user: &str) -> Result<(), NeuronError> {
    let mut wanted: Vec<(&[&str], String)> = vec![
        (&["--target"], format!("--target={}", plan.target)),
        (&["--model-type"], "--model-type=transformer".to_owned()),
        // The graph states its dtypes; the compiler must not choose others.
        (&["--auto-cast"], "--auto-cast=none".to_owned()),
    ];
    if plan.target.facts().logical_cores.len() > 1 {
        wanted.push((LOGICAL_CORE_FLAGS, format!("--lnc={}", plan.logical_core)));
    }
    if let Some(level) = options.optimization {
        if !(1..=3).contains(&level) {
            let found = level.to_string();
            return Err(NeuronError::BadOption { option: "optimization", found, expected: "1, 2 or 3" });
        }
        let names: &[&str] = &["--optlevel", "-O"];
        if let Some(found) = flag_value(user, names).filter(|found| *found != level.to_string()) {
            let one = format!("`--optlevel` in `{COMPILER_FLAGS}` is {found}");
            return Err(conflict(one, format!("the option `optimization` is {level}")));
        }
        wanted.push((names, format!("--optlevel={level}")));
    }
    let missing = wanted.into_iter().filter(|(names, _)| flag_value(user, names).is_none()).map(|(_, flag)| flag);
    let flags: Vec<String> = user.split_whitespace().map(str::to_owned).chain(missing).collect();
    let flags = flags.join(" ");
    if flags != user {
        plan.set(COMPILER_FLAGS, flags, "the compiler's view of this machine");
    }
    Ok(())
}

/// The value of a flag, written `--flag=value`, `--flag value` or (one letter) `-Ovalue`; the last one counts.
fn flag_value<'a>(flags: &'a str, names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    let mut words = flags.split_whitespace();
    while let Some(word) = words.next() {
        for name in names {
            let Some(rest) = word.strip_prefix(name) else { continue };
            match rest.strip_prefix('=') {
                Some(value) => found = Some(value),
                None if rest.is_empty() => found = words.next().or(found),
                None if name.len() == 2 => found = Some(rest),
                None => {}
            }
            break;
        }
    }
    found
}

fn cores<F: Fn(&str) -> Option<OsString>>(
    plan: &mut Plan,
    current: &Current<'_, F>,
    wanted: &Cores,
) -> Result<(), NeuronError> {
    let expected = "consecutive cores, such as `0-3`";
    let visible = current.text(VISIBLE_CORES)?;
    let range = visible.as_deref().map(|text| core_range(text).ok_or_else(|| bad(VISIBLE_CORES, text, expected)));
    let (range, number) = (range.transpose()?, current.number(NUM_CORES)?);
    let is = |variable: &str, value: &dyn std::fmt::Display| format!("`{variable}` is `{value}`");
    let visible = visible.unwrap_or_default();
    match wanted {
        Cores::Free => {}
        Cores::Count(0) => {
            return Err(NeuronError::BadOption { option: "cores", found: "0".to_owned(), expected: "at least one" });
        }
        Cores::Count(count) => {
            let asked = format!("the option `cores` asks for {count}");
            match (range, number) {
                (Some(range), _) if length(&range) == u64::from(*count) => {}
                (Some(_), _) => return Err(conflict(is(VISIBLE_CORES, &visible), asked)),
                (None, Some(number)) if number == *count => {}
                (None, Some(number)) => return Err(conflict(is(NUM_CORES, &number), asked)),
                (None, None) => plan.set(NUM_CORES, count.to_string(), "cores are taken by one process"),
            }
        }
        Cores::Range(cores) => {
            let (first, last) = (cores.start(), cores.end());
            if first > last {
                let found = format!("{first}-{last}");
                return Err(NeuronError::BadOption { option: "cores", found, expected });
            }
            let asked = format!("the option `cores` asks for {first}-{last}");
            match (range, number) {
                (Some(range), _) if range == *cores => {}
                (Some(_), _) => return Err(conflict(is(VISIBLE_CORES, &visible), asked)),
                // The runtime would quietly ignore it.
                (None, Some(number)) if u64::from(number) != length(cores) => {
                    return Err(conflict(is(NUM_CORES, &number), asked));
                }
                (None, _) => plan.set(VISIBLE_CORES, format!("{first}-{last}"), "cores are taken by one process"),
            }
        }
    }
    Ok(())
}

fn length(cores: &RangeInclusive<u32>) -> u64 {
    u64::from(*cores.end()).saturating_sub(u64::from(*cores.start())) + 1
}

/// `3`, `3-6`, `3,4,5` or `3-5,6`: each part goes on where the last one ended.
fn core_range(text: &str) -> Option<RangeInclusive<u32>> {
    let mut whole: Option<RangeInclusive<u32>> = None;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let follows = whole.as_ref().is_none_or(|whole| whole.end().checked_add(1) == Some(first));
        if first > last || !follows {
            return None;
        }
        whole = Some(whole.map_or(first, |whole| *whole.start())..=last);
    }
    whole
}

fn several_processes<F: Fn(&str) -> Option<OsString>>(
    plan: &mut Plan,
    current: &Current<'_, F>,
    processes: &Processes,
) -> Result<(), NeuronError> {
    let Processes { devices, index } = processes;
    if *index >= devices.len() || devices.contains(&0) {
        let found = format!("process {index} of {devices:?} devices");
        let expected = "an index into a list of at least one device a process";
        return Err(NeuronError::BadOption { option: "processes", found, expected });
    }
    let list = devices.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let reason = "devices of all processes are one set";
    plan.fixed(current, PROCESS_DEVICES, list, "`devices` of the option `processes`", reason)?;
    plan.fixed(current, PROCESS_INDEX, index.to_string(), "`index` of the option `processes`", reason)
}

#[cfg(test)]
mod tests;
