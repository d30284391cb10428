//! The node's main loop: it makes the running pods match the manifests.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::guard::KILL;
use super::manifest::{self, StaticPod};
use super::state::PodState;
use super::{NodeConfig, READY, changes, container, mirror, namespace, pod};

/// The folder of static pod manifests.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// How often the manifests are read even without a change, and the state of the pods is published.
const PERIOD: Duration = Duration::from_millis(200);

/// A started pod.
struct Entry {
    pod: Arc<StaticPod>,
    state: watch::Receiver<PodState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs a node until standard input ends. Must be the first process of PID, UTS and mount namespaces of its
/// own.
pub fn run(config: &Path) -> Result<()> {
    let bytes = std::fs::read(config).with_context(|| format!("reading {}", config.display()))?;
    let config: NodeConfig = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a node's configuration", config.display()))?;
    namespace::enter(&config)?;
    println!("{READY}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(supervise(Arc::new(config)));
    // The exit of this process ends the rest: the kernel kills a PID namespace with its first process.
    runtime.shutdown_background();
    Ok(())
}

async fn supervise(config: Arc<NodeConfig>) {
    let end = standard_input_ends();
    let (published, states) = watch::channel((Vec::new(), Vec::new()));
    tokio::spawn(mirror::report(config.clone(), states));
    let mut entries: Vec<Entry> = Vec::new();
    let mut problems = BTreeMap::new();
    let mut ticks = tokio::time::interval(PERIOD);
    // As in a kubelet, changes of the file system start a pass too: no pod waits for the next tick.
    let changes = changes::of(Path::new(MANIFESTS));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = changes.notified() => {}
            () = end.cancelled() => break,
        }
        let wanted = wanted(&config, &mut problems);
        entries.retain(|entry| !entry.task.is_finished());
        for entry in &entries {
            if !wanted.iter().any(|pod| pod.uid == entry.pod.uid) {
                entry.stop.cancel();
            }
        }
        for pod in wanted {
            // A pod of the same name, for example its previous version, must have stopped first.
            if !entries.iter().any(|entry| entry.pod.name == pod.name && entry.pod.namespace == pod.namespace)
            {
                entries.push(start(&config, pod));
            }
        }
        publish(&config, &entries, &published);
    }
    for entry in &entries {
        entry.stop.cancel();
    }
    let all = futures::future::join_all(entries.into_iter().map(|entry| entry.task));
    let _ = tokio::time::timeout(config.grace, all).await;
}

fn wanted(config: &NodeConfig, problems: &mut BTreeMap<String, String>) -> Vec<Arc<StaticPod>> {
    let mut wanted = Vec::new();
    for (file, pod) in manifest::scan(Path::new(MANIFESTS), &config.name) {
        match pod {
            Ok(pod) => {
                problems.remove(&file);
                wanted.push(Arc::new(pod));
            }
            // Each problem is logged once.
            Err(problem) => {
                if problems.get(&file) != Some(&problem) {
                    eprintln!("{MANIFESTS}/{file}: {problem}");
                    problems.insert(file, problem);
                }
            }
        }
    }
    wanted
}

fn start(config: &Arc<NodeConfig>, pod: Arc<StaticPod>) -> Entry {
    let (sender, state) = watch::channel(pod::initial(&pod));
    let stop = CancellationToken::new();
    let task = tokio::spawn(pod::run(config.clone(), pod.clone(), sender, stop.clone()));
    Entry { pod, state, stop, task }
}

/// Publishes the state of the pods, if it changed: a file for the harness, mirror Pods for the API server.
fn publish(config: &NodeConfig, entries: &[Entry], published: &watch::Sender<mirror::Pods>) {
    let states: Vec<PodState> = entries.iter().map(|entry| entry.state.borrow().clone()).collect();
    if published.borrow().1 == states && published.borrow().0.len() == entries.len() {
        return;
    }
    match serde_json::to_vec_pretty(&states) {
        Ok(bytes) => {
            if let Err(error) = crate::files::replace(&config.state_file(), &bytes, 0o644) {
                eprintln!("{error:#}");
            }
        }
        Err(error) => eprintln!("state as JSON: {error}"),
    }
    let pods = entries.iter().map(|entry| entry.pod.clone()).collect();
    published.send_replace((pods, states));
}

/// Cancelled when standard input ends: the harness closed the other end, or exited. If the harness requests a
/// power failure instead, the node exits at once.
fn standard_input_ends() -> CancellationToken {
    let ended = CancellationToken::new();
    let token = ended.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == KILL {
                std::process::exit(137);
            }
        }
        token.cancel();
    });
    ended
}

/// Node paths that every node needs, in addition to those in its configuration.
pub(crate) fn own_paths() -> [&'static Path; 2] {
    [Path::new(container::LOGS), Path::new(container::BINARIES)]
}
