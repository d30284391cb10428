//! What can happen, one thing at a time, and how it is written down to be replayed: `agent.0`, `reconcile-dies.0.2`.

use std::fmt;
use std::str::FromStr;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What happens. Each takes up to two small numbers, `a` and `b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// As it is written.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// Operator `a` decides and writes all of it.
    Reconcile = "reconcile",
    /// The same, but it dies after `b` writes.
    ReconcileDies = "reconcile-dies",
    /// Operator `a` decides; what it wants to write is written later.
    Decide = "decide",
    /// Operator `a` writes the next thing that it has decided.
    Act = "act",
    /// Operator `a` dies.
    Dies = "dies",
    /// The agent of node `a` looks, does what is to be done, asks its plugins, reports.
    Agent = "agent",
    /// The same, but it dies after `b` steps.
    AgentDies = "agent-dies",
    /// The same, with what it read of the API earlier.
    AgentStale = "agent-stale",
    /// The API server of node `a` looks at its file.
    Poll = "poll",
    /// The migration engine goes on with resource `a`, at the API server of node `b`.
    Migrate = "migrate",
    /// Time passes: 5 s, a minute, an hour.
    Tick = "tick",
    /// etcd forgets its history.
    Compact = "compact",
    /// The API server of node `a` dies.
    Stop = "stop",
    /// It comes back.
    Start = "start",
    /// It dies and comes back at once.
    Restart = "restart",
    /// All of node `a` goes down and comes back, sockets gone.
    Reboot = "reboot",
    /// The KMS of KEK `a` does not answer any more.
    KmsDown = "kms-down",
    /// It does again.
    KmsUp = "kms-up",
    /// The right to encrypt with KEK `a` is taken away.
    Revoke = "revoke",
    /// And given back.
    Grant = "grant",
    /// KEK `a` is rotated.
    Rotate = "rotate",
    /// KEK `a` is deleted, and another one made under its name.
    Anew = "anew",
    /// The Secret that configurations refer to holds a wrong credential.
    TokenBad = "token-bad",
    /// It is gone.
    TokenMissing = "token-missing",
    /// It holds the right one.
    TokenMend = "token-mend",
    /// KMSs get a new credential beside the old one, and the Secret holds it.
    TokenNew = "token-new",
    /// The old one does not count any more.
    TokenEnds = "token-ends",
    /// The admin asks for entry `a` of the menu.
    Spec = "spec",
    /// The admin asks for list `a` of resources.
    Resources = "resources",
    /// The admin asks for everything to be encrypted again.
    Reencrypt = "reencrypt",
    /// The admin gives up the key of number `a`, and all that is stored under it.
    Forget = "forget",
    /// And takes that back.
    Unforget = "unforget",
    /// The admin pauses Keyward.
    Pause = "pause",
    /// And ends that.
    Resume = "resume",
    /// The admin pauses the agent of node `a`.
    PauseAgent = "pause-agent",
    /// And ends that.
    ResumeAgent = "resume-agent",
    /// The admin deletes what was given up and nobody can read.
    Bury = "bury",
    /// Eight days pass by the wall clock.
    Week = "week",
    /// The key secret of number `a` is deleted, finalizer and all.
    DeleteKey = "delete-key",
    /// It cannot be decoded any more.
    CorruptKey = "corrupt-key",
    /// All of them can again.
    MendKeys = "mend-keys",
    /// The revision `a` places before the newest is deleted, finalizer and all.
    DeleteRevision = "delete-revision",
    /// The candidate is deleted.
    DeleteCandidate = "delete-candidate",
    /// The EncryptionNode of node `a` is deleted.
    DeleteNode = "delete-node",
    /// The migration of resource `a` is deleted.
    DeleteMigration = "delete-migration",
    /// Secrets cannot be read.
    Unreadable = "unreadable",
    /// They can again.
    Readable = "readable",
    /// The provider module says of every two KEKs that they are the same.
    Lie = "lie",
    /// It tells the truth again.
    Honest = "honest",
    /// No key secret can be created.
    RefuseKeys = "refuse-keys",
    /// They can again.
    AcceptKeys = "accept-keys",
    /// The namespace of some objects of resource `a` is deleted in etcd: the API server refuses their update with 404.
    Orphan = "orphan",
    /// All such namespaces are recreated.
    Adopt = "adopt",
    /// A webhook refuses the update of some objects of resource `a`.
    Webhook = "webhook",
    /// It admits them again.
    Admit = "admit",
    /// Node `a`, which has left, comes back with its disk as it was: its machine boots, and its kubelet registers it.
    Return = "return",
    /// The machine of node `a` is restored from a copy that was made before its first revision.
    Restore = "restore",
    /// Node `a` is registered; its API server starts once it is prepared.
    Register = "register",
    /// The record of the agent of node `a` is damaged: it says that a key of the last possible number was seen.
    AbsurdMark = "absurd-mark",
    /// The objects of node `a` are deleted, whatever its API server is doing.
    Leave = "leave",
    /// All and everything goes on, once round.
    Round = "round",
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// What.
    pub kind: Kind,
    /// To whom.
    pub a: u8,
    /// And how.
    pub b: u8,
}

impl Step {
    /// To nobody in particular.
    pub fn of(kind: Kind) -> Self {
        Self { kind, a: 0, b: 0 }
    }

    /// To this one.
    pub fn to(kind: Kind, a: usize) -> Self {
        Self::with(kind, a, 0)
    }

    /// To this one, in this way.
    pub fn with(kind: Kind, a: usize, b: usize) -> Self {
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Self { kind, a: small(a), b: small(b) }
    }

    pub(crate) fn who(self) -> usize {
        usize::from(self.a)
    }

    pub(crate) fn how(self) -> usize {
        usize::from(self.b)
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let kind = Self::ALL.iter().find(|kind| kind.name() == text);
        kind.copied().ok_or_else(|| anyhow::anyhow!("there is no step {text:?}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.b > 0 {
            write!(f, ".{}.{}", self.a, self.b)
        } else if self.a > 0 {
            write!(f, ".{}", self.a)
        } else {
            Ok(())
        }
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.trim().split('.');
        let kind = parts.next().unwrap_or_default().parse()?;
        let mut number = || parts.next().map_or(Ok(0), str::parse::<u8>);
        Ok(Self { kind, a: number()?, b: number()? })
    }
}
