//! One container: from its part of the manifest to a process, until that process exits.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use rustix::mount::mount_bind;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::environment::{expand, resolve};
use super::guard::exit_code;
use super::logs::Log;
use super::manifest::{StaticPod, check_mounts};
use super::{NodeConfig, images};

/// A folder inside a node with binaries for containers that run as another user. That user may have no access
/// to the folder that they were built in.
pub(crate) const BINARIES: &str = "/var/lib/keyward-test-binaries";
pub(crate) const LOGS: &str = "/var/log/pods";
/// A container's `PATH`, as in most images.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a container cannot be started; `reason` is the kubelet's reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CannotRun {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl CannotRun {
    fn because(reason: &'static str) -> impl Fn(String) -> Self {
        move |message| Self { reason, message }
    }
}

/// Starts the container's process, with its output in its log.
pub(crate) fn start(
    config: &NodeConfig,
    pod: &StaticPod,
    container: &Container,
    restarts: u32,
) -> Result<Child, CannotRun> {
    let mut command = command(config, pod, container)?;
    let failed = |error: &dyn std::fmt::Display| CannotRun {
        reason: "RunContainerError",
        message: format!("container {}: {error}", container.name),
    };
    let folder = Path::new(LOGS).join(pod.log_folder());
    let log =
        Log::create(&folder, &container.name, restarts).map_err(|error| failed(&format!("{error:#}")))?;
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    if let Some(stream) = child.stdout.take() {
        tokio::spawn(log.clone().copy("stdout", stream));
    }
    if let Some(stream) = child.stderr.take() {
        tokio::spawn(log.copy("stderr", stream));
    }
    Ok(child)
}

/// The process of a container. The image's binary replaces the first word of `command`.
fn command(config: &NodeConfig, pod: &StaticPod, container: &Container) -> Result<Command, CannotRun> {
    let reference = container.image.as_deref().unwrap_or_default();
    let pull = CannotRun::because("ImagePullBackOff");
    let images = images::read(&config.images_file()).map_err(|error| pull(format!("{error:#}")))?;
    let image = images::find(&images, reference)
        .ok_or_else(|| pull(format!("the image map has no binary for image {reference:?}")))?;

    let wrong = CannotRun::because("CreateContainerConfigError");
    check_mounts(container, &pod.spec).map_err(&wrong)?;
    let variables = resolve(image.variables(), container.env.as_deref().unwrap_or_default(), &pod.fields())
        .map_err(|why| wrong(format!("container {}: {why}", container.name)))?;
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return Err(wrong(format!("container {}: envFrom is from API objects", container.name)));
    }

    let user = if config.rootless { None } else { user(pod, container) };
    let program = match user {
        Some(_) => reachable(image.binary()).map_err(&wrong)?,
        None => image.binary().to_owned(),
    };
    let words = container.command.iter().flatten().skip(1).chain(container.args.iter().flatten());
    let mut command = Command::new(program);
    command
        .args(image.first_args())
        .args(words.map(|word| expand(word, &variables)))
        .env_clear()
        .env("PATH", SEARCH)
        .env("HOSTNAME", &config.name)
        .envs(&variables)
        .current_dir(container.working_dir.as_deref().unwrap_or("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its child processes end with it, as with a real container's first process.
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// The user and group that the container requests; without a group it is the user's number, as in most
/// images.
fn user(pod: &StaticPod, container: &Container) -> Option<(u32, u32)> {
    let own = container.security_context.as_ref();
    let pods = pod.spec.security_context.as_ref();
    let uid = own.and_then(|context| context.run_as_user).or(pods.and_then(|context| context.run_as_user))?;
    let gid = own.and_then(|context| context.run_as_group).or(pods.and_then(|context| context.run_as_group));
    let uid = u32::try_from(uid).ok()?;
    Some((uid, gid.and_then(|gid| u32::try_from(gid).ok()).unwrap_or(uid)))
}

/// The binary at a path inside the node that every user can access.
fn reachable(binary: &Path) -> Result<PathBuf, String> {
    let refuse = |error: &dyn std::fmt::Display| format!("making {} reachable: {error}", binary.display());
    let metadata = fs::metadata(binary).map_err(|error| refuse(&error))?;
    // By inode, so that a rebuilt binary gets another path.
    let inode = metadata.ino();
    let name = binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let place = Path::new(BINARIES).join(format!("{inode}-{name}"));
    // The file survives a reboot, the mount over it does not.
    let there = fs::metadata(&place)
        .is_ok_and(|found| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino()));
    if !there {
        match File::create_new(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refuse(&error)),
            _ => {}
        }
        if let Err(error) = mount_bind(binary, &place) {
            let _ = fs::remove_file(&place);
            return Err(refuse(&error));
        }
    }
    Ok(place)
}

/// Waits until the process exits. On `stop` it sends SIGTERM and, after the grace period, SIGKILL.
pub(crate) async fn wait(mut child: Child, stop: &CancellationToken, grace: Duration) -> (i32, bool) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let (status, stopped) = tokio::select! {
        status = child.wait() => (status, false),
        () = stop.cancelled() => {
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
            let status = if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
                status
            } else {
                let _ = child.start_kill();
                child.wait().await
            };
            (status, true)
        }
    };
    if let Some(pid) = pid {
        // Kill the remaining processes of its group.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    (exit_code(status.unwrap_or_else(|_| ExitStatus::from_raw(Signal::KILL.as_raw()))), stopped)
}
