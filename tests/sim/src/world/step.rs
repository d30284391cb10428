//! The steps, one event each, and their notation for a replay: `agent.0`, `reconcile-dies.0.2`.

use std::fmt;
use std::str::FromStr;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kind of a step. Each takes up to two small numbers, `a` and `b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its notation.
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
    /// Operator `a` decides; its actions are written later.
    Decide = "decide",
    /// Operator `a` writes its next pending action.
    Act = "act",
    /// Operator `a` dies.
    Dies = "dies",
    /// The agent of node `a` reads its disk, acts, probes its plugins, reports.
    Agent = "agent",
    /// The same, but it dies after `b` steps.
    AgentDies = "agent-dies",
    /// The same, with what it read from the API earlier.
    AgentStale = "agent-stale",
    /// The API server of node `a` reads its file.
    Poll = "poll",
    /// The migration engine continues with resource `a`, at the API server of node `b`.
    Migrate = "migrate",
    /// Time passes: 5 s, a minute, an hour.
    Tick = "tick",
    /// etcd compacts its history.
    Compact = "compact",
    /// The API server of node `a` dies.
    Stop = "stop",
    /// It starts again.
    Start = "start",
    /// It dies and starts again at once.
    Restart = "restart",
    /// Node `a` reboots; its sockets are gone.
    Reboot = "reboot",
    /// The KMS of KEK `a` does not answer any more.
    KmsDown = "kms-down",
    /// It answers again.
    KmsUp = "kms-up",
    /// The right to encrypt with KEK `a` is revoked.
    Revoke = "revoke",
    /// It is granted again.
    Grant = "grant",
    /// KEK `a` is rotated.
    Rotate = "rotate",
    /// KEK `a` is deleted, and another one is created under its name.
    RecreateKek = "recreate-kek",
    /// The Secret that configurations refer to has a wrong credential.
    TokenBad = "token-bad",
    /// It is gone.
    TokenMissing = "token-missing",
    /// It has the right one.
    TokenFix = "token-fix",
    /// KMSs get a new credential beside the old one, and the Secret has it.
    TokenNew = "token-new",
    /// KMSs do not accept the old one any more.
    TokenEnds = "token-ends",
    /// The admin requests entry `a` of the menu.
    Spec = "spec",
    /// The admin requests list `a` of resources.
    Resources = "resources",
    /// The admin requests that everything is re-encrypted.
    Reencrypt = "reencrypt",
    /// The admin requests that key `a`, and everything that is stored under it, is forgotten.
    Forget = "forget",
    /// The admin removes that request.
    Unforget = "unforget",
    /// The admin pauses Keyward.
    Pause = "pause",
    /// The admin resumes it.
    Resume = "resume",
    /// The admin pauses the agent of node `a`.
    PauseAgent = "pause-agent",
    /// The admin resumes it.
    ResumeAgent = "resume-agent",
    /// The admin deletes forgotten objects that nobody can read.
    Bury = "bury",
    /// Eight days pass by the wall clock.
    Week = "week",
    /// The secret of key `a` is deleted, with its finalizer.
    DeleteKey = "delete-key",
    /// It cannot be decoded any more.
    CorruptKey = "corrupt-key",
    /// The admin repairs all damaged key secrets.
    FixKeys = "fix-keys",
    /// The revision `a` places before the newest is deleted, with its finalizer.
    DeleteRevision = "delete-revision",
    /// The candidate is deleted.
    DeleteCandidate = "delete-candidate",
    /// The EncryptionNode of node `a` is deleted.
    DeleteNode = "delete-node",
    /// The migration of resource `a` is deleted.
    DeleteMigration = "delete-migration",
    /// Secrets cannot be read.
    Unreadable = "unreadable",
    /// They can be read again.
    Readable = "readable",
    /// The provider module calls any two KEKs the same.
    Lie = "lie",
    /// The module is correct again.
    Honest = "honest",
    /// No key secret can be created.
    RefuseKeys = "refuse-keys",
    /// They can be created again.
    AcceptKeys = "accept-keys",
    /// The namespace of some objects of resource `a` is deleted in etcd: the API server refuses their update
    /// with 404.
    Orphan = "orphan",
    /// All such namespaces are recreated.
    Adopt = "adopt",
    /// A webhook refuses the update of some objects of resource `a`.
    Webhook = "webhook",
    /// It admits them again.
    Admit = "admit",
    /// Node `a`, which has left, returns with its old disk: its machine boots, and its kubelet registers it.
    Return = "return",
    /// The machine of node `a` is restored from a copy that was made before its first revision.
    Restore = "restore",
    /// Node `a` is registered; its API server starts once it is prepared.
    Register = "register",
    /// The record of the agent of node `a` is damaged: its highest key has the last possible number.
    AbsurdMark = "absurd-mark",
    /// The objects of node `a` are deleted, even if its API server runs.
    Leave = "leave",
    /// Everybody continues, for one round.
    Round = "round",
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// Its kind.
    pub kind: Kind,
    /// Its object: an operator, a node, a KEK, a key, …
    pub a: u8,
    /// Its variant.
    pub b: u8,
}

impl Step {
    /// A step without numbers.
    pub fn of(kind: Kind) -> Self {
        Self { kind, a: 0, b: 0 }
    }

    /// A step of this object.
    pub fn to(kind: Kind, a: usize) -> Self {
        Self::with(kind, a, 0)
    }

    /// A step of this object, in this variant.
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
