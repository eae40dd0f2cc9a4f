//! Rules about crates of others: their licences, and that none is there twice without a reason. The lists are `deny.toml`'s.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{File, Violation};

/// Every dependency can be used under licences that `deny.toml` allows.
pub(super) fn licences(metadata: &Value, deny: &File, lock: &File) -> Vec<Violation> {
    let allow: Vec<&str> = list(deny, "allow").flat_map(quoted).collect();
    // One entry: the licences, then the crate.
    let exceptions: Vec<Vec<&str>> = list(deny, "exceptions").map(quoted).collect();
    let mut found = Vec::new();
    for package in packages(metadata) {
        let allowed = |licence: &str| {
            let excepted =
                |e: &Vec<&str>| e.split_last().is_some_and(|(c, l)| *c == package.name && l.contains(&licence));
            allow.contains(&licence) || exceptions.iter().any(excepted)
        };
        let problem = match package.licence {
            None => "names no licence".to_owned(),
            Some(expression) => match Expression::new(expression).holds(&allowed) {
                Some(true) => continue,
                Some(false) => format!("has the licence `{expression}`, which `deny.toml` does not allow"),
                None => format!("has a licence that is no SPDX expression: `{expression}`"),
            },
        };
        let line = line_of(lock, package.name, package.version);
        found.push(Violation::new(&lock.path, line, format!("{} {} {problem}", package.name, package.version)));
    }
    found
}

/// Of every crate there is one version, apart from those that `deny.toml` skips.
pub(super) fn duplicates(metadata: &Value, deny: &File, lock: &File) -> Vec<Violation> {
    let skipped: Vec<&str> = list(deny, "skip").filter_map(|entry| quoted(entry).first().copied()).collect();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages(metadata) {
        if !skipped.contains(&format!("{}@{}", package.name, package.version).as_str()) {
            versions.entry(package.name).or_default().push(package.version);
        }
    }
    let repeated = versions.iter().filter(|(_, versions)| versions.len() > 1);
    repeated
        .map(|(name, versions)| {
            let message = format!(
                "{name} is there as {}; drop one (`cargo tree -d`), or say in `deny.toml` under `skip` who needs it",
                versions.join(" and ")
            );
            Violation::new(&lock.path, line_of(lock, name, versions[0]), message)
        })
        .collect()
}

struct Package<'a> {
    name: &'a str,
    version: &'a str,
    licence: Option<&'a str>,
}

fn packages(metadata: &Value) -> impl Iterator<Item = Package<'_>> {
    metadata["packages"].as_array().into_iter().flatten().filter_map(|package| {
        let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
        Some(Package { name, version, licence: package["license"].as_str() })
    })
}

/// The line of the lock file that names this version, or its first.
fn line_of(lock: &File, name: &str, version: &str) -> usize {
    let (name, version) = (format!("name = \"{name}\""), format!("version = \"{version}\""));
    let lines: Vec<&str> = lock.text.lines().collect();
    lines.windows(2).position(|pair| pair[0] == name && pair[1] == version).map_or(1, |n| n + 1)
}

/// The entries of the list `key` in `deny.toml`, one a line. A TOML reader would be a dependency for three lists whose form is ours.
fn list<'a>(deny: &'a File, key: &str) -> impl Iterator<Item = &'a str> {
    let open = format!("{key} = [");
    let lines = deny.text.lines().map(str::trim);
    lines
        .skip_while(move |line| *line != open)
        .skip(1)
        .take_while(|line| *line != "]")
        .filter(|line| !line.starts_with('#'))
}

/// The texts between double quotes.
fn quoted(entry: &str) -> Vec<&str> {
    entry.split('"').skip(1).step_by(2).collect()
}

/// An SPDX expression, also in cargo's old form with `/` for `OR`.
struct Expression<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str) -> Self {
        let mut tokens = Vec::new();
        for word in text.split_whitespace() {
            let mut rest = word;
            while let Some(at) = rest.find(['(', ')', '/']) {
                tokens.extend([&rest[..at], &rest[at..=at]]);
                rest = &rest[at + 1..];
            }
            tokens.push(rest);
        }
        tokens.retain(|token| !token.is_empty());
        Self { tokens, at: 0 }
    }

    /// Whether allowed licences satisfy the expression; `None` when it is malformed.
    fn holds(mut self, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
        let holds = self.any(allowed)?;
        (self.at == self.tokens.len()).then_some(holds)
    }

    fn any(&mut self, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
        let mut holds = self.every(allowed)?;
        while self.take("OR") || self.take("/") {
            holds |= self.every(allowed)?;
        }
        Some(holds)
    }

    fn every(&mut self, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
        let mut holds = self.one(allowed)?;
        while self.take("AND") {
            holds &= self.one(allowed)?;
        }
        Some(holds)
    }

    fn one(&mut self, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
        if self.take("(") {
            let holds = self.any(allowed)?;
            return self.take(")").then_some(holds);
        }
        let licence = self.name()?;
        if self.take("WITH") {
            let exception = self.name()?;
            return Some(allowed(&format!("{licence} WITH {exception}")));
        }
        Some(allowed(licence))
    }

    fn name(&mut self) -> Option<&'a str> {
        let token = *self.tokens.get(self.at)?;
        self.at += 1;
        (!["(", ")", "/", "OR", "AND", "WITH"].contains(&token)).then_some(token)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&token);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deny() -> File {
        let text = "[licenses]\nallow = [\n    # \"GPL-3.0\",\n    \"MIT\",\n    \"Apache-2.0 WITH LLVM-exception\",\n    \"Zlib\",\n]\n\
             exceptions = [\n    { allow = [\"MPL-2.0\"], crate = \"option-ext\" },\n]\n[bans]\nskip = [\n    \
             { crate = \"syn@2.0.1\", reason = \"derive\" },\n]\n";
        File { path: "deny.toml".to_owned(), text: text.to_owned() }
    }

    fn lock() -> File {
        let text = "version = 4\n\n[[package]]\nname = \"x\"\nversion = \"1.0.0\"\n".to_owned();
        File { path: "Cargo.lock".to_owned(), text }
    }

    fn metadata(packages: &[(&str, &str, Option<&str>)]) -> Value {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, version, licence)| json!({ "name": name, "version": version, "license": licence }))
            .collect();
        json!({ "packages": packages })
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_found() {
        let fine = |licence| licences(&metadata(&[("x", "1.0.0", licence)]), &deny(), &lock()).is_empty();
        for good in
            ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(GPL-2.0 OR MIT) AND Zlib", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(fine(Some(good)), "{good}");
        }
        for bad in ["GPL-3.0", "Apache-2.0", "MIT AND GPL-3.0", "MPL-2.0", "MIT OR", "(MIT", "MIT Zlib", "MIT WITH", ""]
        {
            assert!(!fine(Some(bad)), "{bad}");
        }
        assert!(!fine(None));
        let found = licences(&metadata(&[("x", "1.0.0", Some("GPL-3.0"))]), &deny(), &lock());
        assert_eq!(
            found[0].to_string(),
            "Cargo.lock:4: x 1.0.0 has the licence `GPL-3.0`, which `deny.toml` does not allow"
        );
    }

    #[test]
    fn an_exception_holds_for_its_crate_only() {
        let packages = [("option-ext", "0.2.0", Some("MPL-2.0")), ("other", "0.1.0", Some("MPL-2.0"))];
        let found = licences(&metadata(&packages), &deny(), &lock());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.starts_with("other 0.1.0"), "{found:?}");
    }

    #[test]
    fn a_second_version_without_a_reason_is_found() {
        let packages =
            [("syn", "2.0.1", None), ("syn", "3.0.0", None), ("rand", "0.9.5", None), ("rand", "0.10.4", None)];
        let found = duplicates(&metadata(&packages), &deny(), &lock());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.starts_with("rand is there as 0.9.5 and 0.10.4"), "{found:?}");
    }
}
