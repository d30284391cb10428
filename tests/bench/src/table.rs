//! The table of figures and their goals.

use anyhow::{Context, Result};
use keyward_test_cluster::Tools;
use serde::Serialize;

#[derive(Default, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    figure: f64,
    unit: &'static str,
    goal: Option<f64>,
}

impl Table {
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        figure: f64,
        unit: &'static str,
        goal: Option<f64>,
    ) {
        self.rows.push(Row { what: what.into(), figure, unit, goal });
    }

    pub(crate) fn print(&self) {
        println!("{:<64} {:>10} {:<5} {:>10}", "what", "figure", "unit", "goal");
        for row in &self.rows {
            let goal = row.goal.map_or_else(|| "–".to_owned(), |goal| format!("< {goal}"));
            println!("{:<64} {:>10.1} {:<5} {:>10}", row.what, row.figure, row.unit, goal);
        }
    }

    pub(crate) fn keep(&self, tools: &Tools) -> Result<()> {
        let folder = tools.target().join("bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("figures.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| path.display().to_string())?;
        println!("written to {}", path.strip_prefix(tools.root()).unwrap_or(&path).display());
        Ok(())
    }
}
