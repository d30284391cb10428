//! Manifests, words, quantities and durations as Kubernetes and admins write them, and similar ones.

use std::fmt::Write as _;

/// A generator of random numbers. The same seed gives the same numbers.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    pub(crate) fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Plain scalars that YAML 1.1, YAML 1.2 and people read in different ways.
const ODD: [&str; 48] = [
    "yes",
    "on",
    "NO",
    "Off",
    "y",
    "n",
    "true",
    "True",
    "0o17",
    "010",
    "08",
    "1_000",
    "1:30",
    "0x1F",
    "0b11",
    "~",
    "null",
    "Null",
    "1e3",
    ".5",
    "+1",
    "-0",
    "1.",
    ".inf",
    "-.INF",
    ".nan",
    "2001-12-14",
    "=",
    "!!str 5",
    "!!int \"5\"",
    "!!binary YQ==",
    "!x y",
    "&a x",
    "@x",
    "%x",
    "{a",
    "[a",
    "a: b",
    "a #b",
    "'",
    "\"",
    "|",
    ">-",
    "? x",
    "1e400",
    "_1",
    "\"\\u0061\\x62\"",
    "'it''s'",
];

/// Words as kubeadm and admins write them; sometimes [`words`].
fn usual_words(rng: &mut Rng) -> Vec<String> {
    if rng.one_in(4) {
        return words(rng);
    }
    let mut words = Vec::new();
    for _ in 0..rng.below(5) {
        let (name, value) = rng.pick(&[
            ("encryption-provider-config", "/etc/kubernetes/encryption/config.json"),
            ("encryption-provider-config", "/etc/enc.yaml"),
            ("encryption_provider_config", "/etc/enc.yaml"),
            ("encryption-provider-config-automatic-reload", "true"),
            ("request-timeout", "1m30s"),
            ("etcd-servers", "https://127.0.0.1:2379"),
            ("allow-privileged", "true"),
        ]);
        let is_switch = value == "true";
        match rng.below(3) {
            0 if is_switch => words.push(format!("--{name}")),
            0 => words.extend([format!("--{name}"), value.to_owned()]),
            _ => words.push(format!("--{name}={value}")),
        }
    }
    words
}

/// Words that follow `kube-apiserver`.
pub(crate) fn words(rng: &mut Rng) -> Vec<String> {
    let mut words = Vec::new();
    for _ in 0..rng.below(6) {
        let name = rng.pick(&[
            "encryption-provider-config",
            "encryption-provider-config",
            "encryption_provider_config",
            "encryption-provider-config-automatic-reload",
            "encryption-provider-config-automatic_reload",
            "request-timeout",
            "request-timeout",
            "allow-privileged",
            "anonymous-auth",
            "etcd-servers",
            "service-cluster-ip-range",
            "v",
            "version",
            "enable-aggregator-routing",
            "Encryption-provider-config",
            "profiling",
            "help",
            "unknown-flag",
        ]);
        let value = rng.pick(&[
            "/etc/kubernetes/encryption/config.json",
            "/etc/enc.yaml",
            "true",
            "false",
            "1",
            "T",
            "yes",
            "60s",
            "1m0s",
            "1.5h",
            "0",
            "-1s",
            "https://127.0.0.1:2379",
            "",
            "--encryption-provider-config=/b",
            "a=b",
        ]);
        match rng.below(12) {
            0..=4 => words.push(format!("--{name}={value}")),
            5..=7 => words.extend([format!("--{name}"), value.to_owned()]),
            8 => words.push(format!("--{name}")),
            9 => words.push(format!("-{name}={value}")),
            10 => words.push(
                rng.pick(&["-v=2", "-v", "-v3", "--", "-", "", "---x", "--=x", "word", "-h", "--v=4"])
                    .to_owned(),
            ),
            _ => words.extend([format!("--{name}={value}"), format!("--{name}={value}x")]),
        }
    }
    words
}

pub(crate) fn duration(rng: &mut Rng) -> String {
    let mut text = rng.pick(&["", "", "", "", "-", "+", "--", " "]).to_owned();
    for _ in 0..=rng.below(3) {
        text.push_str(rng.pick(&[
            "1",
            "30",
            "0",
            "1.5",
            ".5",
            "1.",
            ".",
            "",
            "9223372036854775807",
            "9223372036854775808",
            "0.0000000001",
            "00012",
        ]));
        text.push_str(rng.pick(&["s", "m", "h", "ms", "us", "µs", "μs", "ns", "", "d", "S", " s", "min"]));
    }
    text
}

pub(crate) fn quantity(rng: &mut Rng) -> String {
    let sign = rng.pick(&["", "", "", "", "+", "-", " "]);
    let number = rng.pick(&[
        "0",
        "1",
        "100",
        "0.5",
        ".5",
        "1.",
        ".",
        "",
        "007",
        "1.25",
        "123456789012345678",
        "1234567890123456789",
        "0.000000001",
        "0.0000000001",
        "1_000",
        "9223372036854775807",
    ]);
    let suffix = rng.pick(&[
        "", "", "m", "Mi", "Gi", "k", "K", "Ki", "KI", "M", "E", "Ei", "n", "u", "e3", "E3", "e-3", "e+2",
        "e", "e3.5", "e99", "e999", "mi", " Mi", "B", "MB", "i",
    ]);
    format!("{sign}{number}{suffix}")
}

/// A scalar in one of YAML's styles.
fn scalar(rng: &mut Rng, text: &str) -> String {
    if rng.one_in(60) {
        return rng.pick(&ODD).to_owned();
    }
    let is_plain = !text.is_empty()
        && !text.contains(": ")
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    match rng.below(8) {
        0 => format!("'{}'", text.replace('\'', "''")),
        1 => serde_json::to_string(text).unwrap(),
        2 => format!(
            "\"{}\"",
            text.chars()
                .map(|c| if rng.one_in(3) && c.is_ascii() {
                    format!("\\x{:02x}", c as u32)
                } else {
                    format!("{c}")
                })
                .collect::<String>()
        ),
        3 if rng.one_in(4) => format!("!!str {}", serde_json::to_string(text).unwrap()),
        _ if is_plain || text.starts_with("--") => text.to_owned(),
        _ => serde_json::to_string(text).unwrap(),
    }
}

fn list(rng: &mut Rng, key: &str, items: &[String]) -> String {
    let scalars: Vec<String> = items.iter().map(|item| scalar(rng, item)).collect();
    if rng.one_in(5) {
        return format!("{key}: [{}]", scalars.join(", "));
    }
    let margin = rng.pick(&["", "  "]);
    let lines: String = scalars.iter().map(|item| format!("\n    {margin}- {item}")).collect();
    format!("{key}:{lines}")
}

/// A static pod of the API server, as YAML.
fn yaml(rng: &mut Rng) -> String {
    let program = rng.pick(&[
        "kube-apiserver",
        "kube-apiserver",
        "kube-apiserver",
        "kube-apiserver",
        "kube-apiserver",
        "kube-apiserver",
        "/usr/local/bin/kube-apiserver",
        "sh",
        "etcd",
    ]);
    let mut command = vec![program.to_owned()];
    command.extend(usual_words(rng));
    let args = if rng.one_in(4) { usual_words(rng) } else { Vec::new() };
    let name =
        rng.pick(&["kube-apiserver", "kube-apiserver", "kube-apiserver", "kube-apiserver", "etcd", "other"]);
    let mut text = String::new();
    if rng.one_in(12) {
        text.push_str(rng.pick(&["---\n", "# made by kubeadm\n", "\u{feff}", "%YAML 1.1\n---\n", "\n\n"]));
    }
    text.push_str("apiVersion: v1\nkind: Pod\nmetadata:\n");
    let _ = write!(text, "  name: {}\n  namespace: kube-system\nspec:\n", scalar(rng, name));
    text.push_str("  containers:\n  - ");
    text.push_str(&list(rng, "command", &command));
    if !args.is_empty() {
        text.push_str("\n    ");
        text.push_str(&list(rng, "args", &args));
    }
    let image = rng.pick(&[
        "registry.k8s.io/kube-apiserver:v1.36.3",
        "etcd:3.6",
        "a/kube-apiserver@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ]);
    let _ = write!(text, "\n    image: {}\n    name: {}\n", scalar(rng, image), scalar(rng, name));
    let path = rng.pick(&["/livez", "/healthz", "/healthz?verbose", "/readyz"]);
    let _ = write!(
        text,
        "    livenessProbe:\n      httpGet: {{path: {}, port: 6443, scheme: HTTPS}}\n",
        scalar(rng, path)
    );
    if rng.one_in(3) {
        text.push_str("    resources: {requests: {cpu: 250m, memory: 1}}\n");
    }
    let folders = [
        "/etc/kubernetes/encryption",
        "/var/run/kmsplugin",
        "/etc/kubernetes/pki",
        "/etc/kubernetes/encryption/config.json",
        "/etc//kubernetes/encryption/",
    ];
    let chosen: Vec<&str> = folders.into_iter().filter(|_| rng.one_in(2)).collect();
    if !chosen.is_empty() {
        text.push_str("    volumeMounts:\n");
        for (at, path) in chosen.iter().enumerate() {
            let _ = write!(text, "    - mountPath: {}\n      name: volume-{at}\n", scalar(rng, path));
            if rng.one_in(6) {
                let key = rng.pick(&["subPath", "subPathExpr"]);
                let _ = writeln!(text, "      {key}: {}", scalar(rng, "sub"));
            }
        }
    }
    text.push_str("  hostNetwork: true\n");
    if !chosen.is_empty() {
        text.push_str("  volumes:\n");
        for (at, path) in chosen.iter().enumerate() {
            let source = if rng.one_in(5) { "/elsewhere" } else { path };
            let kind = rng.pick(&[
                "",
                ", type: DirectoryOrCreate",
                ", type: Directory",
                ", type: \"\"",
                ", type: File",
            ]);
            let volume = match rng.below(8) {
                0 => "emptyDir: {}".to_owned(),
                _ => format!("hostPath: {{path: {}{kind}}}", scalar(rng, source)),
            };
            let _ = write!(text, "  - name: volume-{at}\n    {volume}\n");
        }
    }
    text
}

/// Damages a file.
fn mishap(rng: &mut Rng, text: &str) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let at = rng.below(lines.len());
    match rng.below(12) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => return text.replace('\n', "\r\n"),
        3 => return format!("{text}---\n{text}"),
        4 => return format!("{text}---\n"),
        5 => lines[at] = lines[at].to_uppercase(),
        6 => lines[at] = format!(" {}", lines[at]),
        7 => lines[at] = lines[at].replacen("  ", "\t", 1),
        8 => lines.insert(at, "# a remark: with a colon\n".to_owned()),
        9 => return text.replacen("hostNetwork: true", "hostNetwork: true\n  <<: {volumes: []}", 1),
        10 => return text.replacen("spec:\n", "spec: &spec\n", 1) + "copy: *spec\n",
        _ => return text.replacen("containers:\n", "containers: null\n  containers:\n", 1),
    }
    lines.concat()
}

pub(crate) fn manifest(rng: &mut Rng) -> String {
    let mut text = yaml(rng);
    if rng.one_in(6)
        && let Ok(value) = serde_saphyr::from_str::<serde_json::Value>(&text)
    {
        text = if rng.one_in(2) { value.to_string() } else { format!("{value:#}") };
        return match rng.below(5) {
            // A field twice in one object.
            0 => text.replacen('{', "{\"spec\": {\"hostPID\": true}, ", 1),
            1 => text.replacen('/', "\\/", 1),
            2 => text.replacen('}', ",}", 1),
            3 => format!(" \n{text}\n"),
            _ => text,
        };
    }
    if rng.one_in(3) { mishap(rng, &text) } else { text }
}
