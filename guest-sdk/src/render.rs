//! Builds a rendering: arguments, environment and files, made of text, values that the host fills in, and
//! references.
//!
//! ```
//! use keyward_guest::Reference;
//! use keyward_guest::render::{Managed, host};
//!
//! let token = Reference::secret("kms", "token").from_field("credentials.name");
//! let plugin = Managed::new()
//!     .arg("--listen=", host::socket_uri())
//!     .arg("--address=", "https://kms.example.com")
//!     .arg("--token-file=", token.path())
//!     .arg_if("--server-name=", None::<&str>)
//!     .port("health")
//!     .arg("--health-port=", host::port("health"))
//!     .health("health", "/healthz")
//!     .into_plugin();
//! ```

use crate::bindings::keyward::provider::types::{
    Container, EnvVar, HttpProbe, Part, Plugin, RenderedFile, Setting,
};

/// Values that the host fills in, different on each node and for each plugin instance.
pub mod host {
    use super::Part;

    /// The socket to listen on, as `unix://…`.
    pub fn socket_uri() -> Part {
        Part::Host("socket-uri".to_owned())
    }

    /// The socket to listen on, as a path.
    pub fn socket_path() -> Part {
        Part::Host("socket-path".to_owned())
    }

    /// The number of the key that the plugin serves.
    pub fn key_id() -> Part {
        Part::Host("key-id".to_owned())
    }

    /// The node that the plugin runs on.
    pub fn node_name() -> Part {
        Part::Host("node-name".to_owned())
    }

    /// The number of a port that the plugin requested by name: several plugins share the network of a node.
    pub fn port(name: &str) -> Part {
        Part::Host(format!("port:{name}"))
    }
}

/// The path of the rendered file with this name.
pub fn rendered(name: &str) -> Part {
    Part::Rendered(name.to_owned())
}

/// A text made of parts.
#[derive(Debug, Default)]
pub struct Text(Vec<Part>);

impl Text {
    /// Appends `more`.
    #[must_use]
    pub fn then(mut self, more: impl Into<Self>) -> Self {
        for part in more.into().0 {
            match (self.0.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(more)) => before.push_str(&more),
                (_, part) => self.0.push(part),
            }
        }
        self
    }
}

impl From<Part> for Text {
    fn from(part: Part) -> Self {
        Self(vec![part])
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Part::Text(text.to_owned()).into()
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Part::Text(text).into()
    }
}

/// A plugin that Keyward starts. It cannot request more than this: the host sets image, privileges, mounts
/// and limits.
#[derive(Debug)]
pub struct Managed(Container);

impl Default for Managed {
    fn default() -> Self {
        Self::new()
    }
}

impl Managed {
    /// A plugin with the image's entry point, no arguments, and requests of 10 millicores and 64 MiB.
    pub fn new() -> Self {
        Self(Container {
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            ports: Vec::new(),
            health: None,
            cpu_request_millis: 10,
            memory_request_mib: 64,
            settings: Vec::new(),
        })
    }

    /// Replaces the entry point of the image.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.0.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// One argument: a flag with its value, as one text.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl Into<Text>) -> Self {
        self.0.args.push(Text::from(flag).then(value).0);
        self
    }

    /// As [`arg`](Self::arg) if there is a value; otherwise no argument.
    #[must_use]
    pub fn arg_if(self, flag: &str, value: Option<impl Into<Text>>) -> Self {
        match value {
            Some(value) => self.arg(flag, value),
            None => self,
        }
    }

    /// One argument without a flag.
    #[must_use]
    pub fn word(mut self, word: impl Into<Text>) -> Self {
        self.0.args.push(word.into().0);
        self
    }

    /// One environment variable. Everybody who can read Pods can read it, so the host refuses a
    /// `secret-value` here (provider-abi: exposure).
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<Text>) -> Self {
        self.0.env.push(EnvVar { name: name.to_owned(), value: value.into().0 });
        self
    }

    /// One file that the host writes for the plugin; [`rendered`] is its path.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Text>) -> Self {
        self.0.files.push(RenderedFile { name: name.to_owned(), content: content.into().0 });
        self
    }

    /// One port, by a name that the author chooses; the host allots the number ([`host::port`]).
    #[must_use]
    pub fn port(mut self, name: &str) -> Self {
        self.0.ports.push(name.to_owned());
        self
    }

    /// The HTTP readiness probe of the plugin.
    #[must_use]
    pub fn health(mut self, port: &str, path: &str) -> Self {
        self.0.health = Some(HttpProbe { port: port.to_owned(), path: path.to_owned() });
        self
    }

    /// Requested CPU, in thousandths of a core.
    #[must_use]
    pub fn cpu_millis(mut self, millis: u32) -> Self {
        self.0.cpu_request_millis = millis;
        self
    }

    /// Requested memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.0.memory_request_mib = mib;
        self
    }

    /// One entry of the open set of settings.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.0.settings.push(Setting { name: name.to_owned(), value: value.to_owned() });
        self
    }

    /// The rendered plugin.
    pub fn into_plugin(self) -> Plugin {
        Plugin::Managed(self.0)
    }
}

/// An external plugin at this endpoint: `unix:///PATH`. Keyward only probes it, and writes the endpoint
/// unchanged into the API servers' configuration.
pub fn external(endpoint: impl Into<String>) -> Plugin {
    Plugin::External(endpoint.into())
}

#[cfg(test)]
mod tests {
    use super::{Managed, Part, Plugin, host};

    #[test]
    fn adjacent_texts_become_one_part_and_a_missing_value_makes_no_argument() {
        let plugin = Managed::new()
            .arg("-a=", "b")
            .arg_if("-c=", None::<&str>)
            .arg_if("-d=", Some(&"e".to_owned()))
            .arg("-l=", host::socket_uri())
            .into_plugin();
        let Plugin::Managed(container) = plugin else { panic!("managed") };
        assert_eq!(
            container.args,
            [
                vec![Part::Text("-a=b".to_owned())],
                vec![Part::Text("-d=e".to_owned())],
                vec![Part::Text("-l=".to_owned()), Part::Host("socket-uri".to_owned())],
            ]
        );
    }
}
