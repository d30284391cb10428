//! Parses the arguments of kube-apiserver as its own parser does (kubernetes: flags-are-read-by-pflag):
//! `--name=value`, `--name value`, a switch alone, `_` for `-` in a name, and the last value of a flag that
//! is given twice.

/// Switches: alone they mean true. All other flags take the next argument as their value.
pub const SWITCHES: [&str; 29] = [
    "aggregator-reject-forwarding-redirect",
    "allow-privileged",
    "anonymous-auth",
    "audit-log-batch-throttle-enable",
    "audit-log-compress",
    "audit-log-truncate-enabled",
    "audit-webhook-batch-throttle-enable",
    "audit-webhook-truncate-enabled",
    "contention-profiling",
    "disable-http2-serving",
    "emulation-forward-compatible",
    "enable-aggregator-routing",
    "enable-bootstrap-token-auth",
    "enable-garbage-collector",
    "enable-logs-handler",
    "enable-priority-and-fairness",
    "encryption-provider-config-automatic-reload",
    "help",
    "log-json-split-stream",
    "log-text-split-stream",
    "permit-address-sharing",
    "permit-port-sharing",
    "profiling",
    "runtime-config-emulation-forward-compatible",
    "service-account-extend-token-expiration",
    "service-account-lookup",
    "shutdown-send-retry-after",
    "version",
    "watch-cache",
];

/// The flags with a value that Keyward uses.
const VALUED: [&str; 2] = ["encryption-provider-config", "request-timeout"];

/// The names, without dashes, and the values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub(super) Vec<(String, String)>);

impl Flags {
    /// The last value, which is the one that kube-apiserver uses.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// All values of a flag.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// A flag's name in the form that the parser compares.
pub(super) fn normalized(name: &str) -> String {
    name.replace('_', "-")
}

/// The flags in these arguments, which follow the program's name.
///
/// # Errors
/// kube-apiserver refuses an argument, or it is not known whether an argument takes the next one as its
/// value.
pub fn parse(words: &[&str]) -> Result<Flags, String> {
    let mut flags = Vec::new();
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        if let Some(flag) = word.strip_prefix("--") {
            if flag.is_empty() {
                // No flags follow, and kube-apiserver takes no other arguments.
                break;
            }
            let (name, value) = long(flag, &mut rest)?;
            flags.push((name, value));
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            flags.push(("v".to_owned(), verbosity(short, &mut rest)?));
        } else if !word.is_empty() {
            return Err(no_flag(word));
        }
    }
    match rest.find(|word| !word.is_empty()) {
        Some(word) => Err(no_flag(word)),
        None => Ok(Flags(flags)),
    }
}

fn long<'a>(
    flag: &str,
    rest: &mut (impl Iterator<Item = &'a str> + Clone),
) -> Result<(String, String), String> {
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let plain =
        |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.is_empty() || name.starts_with('-') || !plain(name) {
        return Err(format!("its argument --{flag} is not a flag"));
    }
    let name = normalized(name);
    let value = match value {
        Some(value) => value.to_owned(),
        None if SWITCHES.contains(&name.as_str()) => "true".to_owned(),
        None => {
            let next = rest.clone().next();
            let is_value = next.is_some_and(|word| !word.starts_with('-') || VALUED.contains(&name.as_str()));
            if !is_value && (next.is_some() || VALUED.contains(&name.as_str())) {
                return Err(format!(
                    "it is not known whether --{name} takes the next argument as its value; write --{name}=VALUE"
                ));
            }
            rest.next().unwrap_or_default().to_owned()
        }
    };
    // The kubelet replaces `$(NAME)` in a container's arguments (kubernetes: the-kubelet-expands-variables).
    if value.contains('$')
        && (VALUED.contains(&name.as_str()) || name.starts_with("encryption-provider-config"))
    {
        return Err(format!("--{name} takes its value from a variable; write the value itself"));
    }
    Ok((name, value))
}

/// The only flag with one dash, except help.
fn verbosity<'a>(short: &str, rest: &mut impl Iterator<Item = &'a str>) -> Result<String, String> {
    let value = short.strip_prefix('v').ok_or_else(|| format!("its argument -{short} is not a flag"))?;
    let value = if value.is_empty() { rest.next().unwrap_or_default() } else { value };
    Ok(value.strip_prefix('=').unwrap_or(value).to_owned())
}

fn no_flag(word: &str) -> String {
    // Only the first letters: a value without its flag may be a secret.
    let begins: String = word.chars().take(12).collect();
    format!("kube-apiserver takes only flags, but one argument begins with {begins:?}")
}
