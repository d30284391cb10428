//! `keyward-sim`: explores, and tells what was found; the last line has the figures.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Options {
    /// How many random schedules
    #[arg(long, default_value_t = 1000)]
    schedules: u64,
    /// The seed of the first
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_delimiter = ',')]
    without: Vec<keyward_test_sim::world::step::Kind>,
    #[arg(long)]
    script: Option<String>,
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    #[arg(long, default_value_t = 0)]
    faults: usize,
    #[arg(long, default_value_t = 1000000)]
    most: usize,
    #[arg(long)]
    mutants: bool,
    #[arg(long)]
    live: bool,
    /// A way to go again
    #[arg(long)]
    replay: Option<String>,
}

fn main() -> ExitCode {
    let o = Options::parse();
    use keyward_test_sim::explore::{random::*, *};
    if let Some(way) = o.replay {
        let way: Way = way.parse().unwrap();
        let v = replay(&way, None, |w, s| {
            let c: Vec<_> = w
                .api
                .configs
                .iter()
                .map(|(n, c)| {
                    format!(
                        "{n}:{}",
                        c.content
                            .as_ref()
                            .unwrap()
                            .config
                            .lists()
                            .iter()
                            .map(|(k, v)| format!("{}={}", &k[..1], v.join(",")))
                            .collect::<Vec<_>>()
                            .join(";")
                    )
                })
                .collect();
            let o = w.clone().decided();
            println!(
                "      {:?} {}",
                o.waiting,
                o.actions.iter().map(|a| a.kind()).collect::<Vec<_>>().join(",")
            );
            println!(
                "{:20} keys {:?} revs {} loaded {:?}",
                s.map(|s| s.to_string()).unwrap_or_default(),
                w.key_ids().map(|k| k.0).collect::<Vec<_>>(),
                c.join(" "),
                w.running().map(|n| w.servers[n].loaded.hash.0[7..11].to_string()).collect::<Vec<_>>()
            )
        });
        println!("{v:?}");
        return ExitCode::SUCCESS;
    }
    let t = std::time::Instant::now();
    if o.mutants {
        for m in keyward_test_sim::mutants::Mutant::ALL {
            let t = std::time::Instant::now();
            match m.hunt(1000, o.seed, 2) {
                Some((n, v, _)) => println!("caught {m:?} after {n}: {v} {:?}", t.elapsed()),
                None => println!("NOT CAUGHT {m:?} {:?}", t.elapsed()),
            }
        }
        return ExitCode::SUCCESS;
    }
    if let Some(script) = o.script {
        let b = exhaustive::Bounds {
            nodes: o.nodes,
            specs: vec![],
            script: script.split(',').map(|x| x.parse().unwrap()).collect(),
            faults: o.faults,
            only: vec![],
            most: o.most,
            mutant: None,
            without: o.without.clone(),
            liveness: o.live,
        };
        let f =
            exhaustive::explore(&b, |f| println!("{} states {} steps {:?}", f.states, f.steps, t.elapsed()));
        for (v, w) in &f.violations {
            println!("{v}");
            let w = shrink::shrink(w, None, v.rule);
            println!("  {w}");
        }
        println!("{} states {} steps complete {} {:?}", f.states, f.steps, f.complete, t.elapsed());
        return ExitCode::SUCCESS;
    }
    let f = random::explore(&Plan {
        schedules: o.schedules,
        seed: o.seed,
        length: 200,
        mutant: None,
        without: o.without.clone(),
        only: None,
        liveness_each: 16,
        threads: 2,
        enough: 6,
    });
    for (s, v, w) in &f.violations {
        println!("seed {s}: {v}");
        let w = shrink::shrink(w, None, v.rule);
        println!("  {w}");
    }
    println!(
        "{} schedules, {} steps, {} ends, {} violations, {:?}",
        f.schedules,
        f.steps,
        f.ends,
        f.violations.len(),
        t.elapsed()
    );
    ExitCode::SUCCESS
}
