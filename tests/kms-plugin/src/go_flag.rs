//! A parser like Go's `flag` package: `-name=value`, `-name value`, one dash or two, a switch without value;
//! with the same messages and the same usage text. A plugin's arguments are rendered for that parser, so a
//! more lenient one would hide mistakes. It is stricter in one point: Go silently stops at the first argument
//! that is not a flag (`-switch false -next=…`), which is an error here.

use std::{fmt::Write as _, time::Duration};

/// One flag, with the function that sets its value.
pub(crate) struct Flag<T> {
    pub(crate) name: &'static str,
    /// The default for the usage text; the value itself is `T`'s default.
    pub(crate) default: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) set: Set<T>,
}

/// The type of a flag's value, with the function that sets it.
pub(crate) enum Set<T> {
    Text(fn(&mut T, String)),
    Switch(fn(&mut T, bool)),
    Port(fn(&mut T, u16)),
    Duration(fn(&mut T, Duration)),
}

/// Why the program does not run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `-h` or `-help`.
    Help,
    /// The command line is wrong.
    Wrong(String),
}

/// Reads `args` (without the program's name) into `target`.
pub(crate) fn parse<T>(
    flags: &[Flag<T>],
    target: &mut T,
    args: impl IntoIterator<Item = String>,
) -> Result<(), Stop> {
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(Stop::Wrong(format!("unexpected argument: {arg}")));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            // `--` ends the flags.
            return match args.next() {
                Some(rest) => Err(Stop::Wrong(format!("unexpected argument: {rest}"))),
                None => Ok(()),
            };
        }
        if body.starts_with(['-', '=']) {
            return Err(Stop::Wrong(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
            return Err(match name {
                "h" | "help" => Stop::Help,
                _ => Stop::Wrong(format!("flag provided but not defined: -{name}")),
            });
        };
        if let (Set::Switch(set), None) = (&flag.set, &value) {
            set(target, true);
            continue;
        }
        let Some(value) = value.or_else(|| args.next()) else {
            return Err(Stop::Wrong(format!("flag needs an argument: -{name}")));
        };
        apply(flag, target, value)?;
    }
    Ok(())
}

fn apply<T>(flag: &Flag<T>, target: &mut T, value: String) -> Result<(), Stop> {
    let name = flag.name;
    let wrong =
        |value: &str, why: &str| Stop::Wrong(format!("invalid value {value:?} for flag -{name}: {why}"));
    match flag.set {
        Set::Text(set) => set(target, value),
        Set::Switch(set) => {
            let parsed = switch(&value).ok_or_else(|| {
                Stop::Wrong(format!("invalid boolean value {value:?} for -{name}: parse error"))
            })?;
            set(target, parsed);
        }
        Set::Port(set) => {
            let number: u64 = value.parse().map_err(|_| wrong(&value, "parse error"))?;
            set(target, u16::try_from(number).map_err(|_| wrong(&value, "value out of range"))?);
        }
        Set::Duration(set) => {
            set(target, duration(&value).ok_or_else(|| wrong(&value, "parse error"))?);
        }
    }
    Ok(())
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `30s`, `1m30s`, `1.5h`, `250ms`, `0`; not negative.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        total = total.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = after;
    }
    Some(total)
}

/// The usage text that Go prints after an error and for `-help`.
pub(crate) fn usage<T>(program: &str, flags: &[Flag<T>]) -> String {
    let mut flags: Vec<_> = flags.iter().collect();
    flags.sort_by_key(|flag| flag.name);
    let mut text = format!("Usage of {program}:\n");
    for Flag { name, default, usage, set } in flags {
        let kind = match set {
            Set::Text(_) => " string",
            Set::Switch(_) => "",
            Set::Port(_) => " int",
            Set::Duration(_) => " duration",
        };
        let default = match (set, *default) {
            (_, "") => String::new(),
            (Set::Text(_), default) => format!(" (default {default:?})"),
            (_, default) => format!(" (default {default})"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  -{name}{kind}\n    \t{usage}{default}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Target {
        text: String,
        switch: bool,
        port: u16,
        wait: Duration,
    }

    const FLAGS: [Flag<Target>; 4] = [
        Flag { name: "text", default: "x", usage: "Some text", set: Set::Text(|t, v| t.text = v) },
        Flag { name: "switch", default: "", usage: "A switch", set: Set::Switch(|t, v| t.switch = v) },
        Flag { name: "port", default: "80", usage: "A port", set: Set::Port(|t, v| t.port = v) },
        Flag { name: "wait", default: "30s", usage: "A time", set: Set::Duration(|t, v| t.wait = v) },
    ];

    fn read(args: &str) -> Result<Target, Stop> {
        let mut target = Target::default();
        parse(&FLAGS, &mut target, args.split_whitespace().map(str::to_owned)).map(|()| target)
    }

    #[test]
    fn all_forms_of_go_are_parsed() {
        let expected = Target { text: "a=b".into(), switch: true, port: 1, wait: Duration::from_secs(90) };
        for args in [
            "-text=a=b -switch -port=1 -wait=1m30s",
            "--text a=b --switch --port 1 --wait 1.5m",
            "-text a=b -switch=true -port 1 -wait 90s --",
            "-text=first -text=a=b -switch=T -port=1 -wait=90000ms",
        ] {
            assert_eq!(read(args).as_ref(), Ok(&expected), "{args}");
        }
        assert_eq!(read("-text="), Ok(Target::default()));
    }

    #[test]
    fn errors_have_gos_texts() {
        for (args, message) in [
            ("-nope=1", "flag provided but not defined: -nope"),
            ("--nope", "flag provided but not defined: -nope"),
            ("-text", "flag needs an argument: -text"),
            ("---text=a", "bad flag syntax: ---text=a"),
            ("-=a", "bad flag syntax: -=a"),
            ("-port=http", "invalid value \"http\" for flag -port: parse error"),
            ("-port=70000", "invalid value \"70000\" for flag -port: value out of range"),
            ("-wait=30", "invalid value \"30\" for flag -wait: parse error"),
            ("-wait=", "invalid value \"\" for flag -wait: parse error"),
            ("-wait=5x", "invalid value \"5x\" for flag -wait: parse error"),
            ("-switch=maybe", "invalid boolean value \"maybe\" for -switch: parse error"),
            ("-switch false -port=1", "unexpected argument: false"),
            ("-- rest", "unexpected argument: rest"),
            ("-", "unexpected argument: -"),
        ] {
            assert_eq!(read(args), Err(Stop::Wrong(message.into())), "{args}");
        }
        assert_eq!(read("-help"), Err(Stop::Help));
        assert_eq!(read("--h"), Err(Stop::Help));
    }

    #[test]
    fn usage_is_sorted_and_shows_defaults() {
        assert_eq!(
            usage("program", &FLAGS),
            "Usage of program:\n  -port int\n    \tA port (default 80)\n  -switch\n    \tA switch\n  -text string\n    \
             \tSome text (default \"x\")\n  -wait duration\n    \tA time (default 30s)\n"
        );
    }
}
