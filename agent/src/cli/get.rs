//! `orlop get`: lists objects as a table, as JSON, as YAML or by name.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use super::row::{self, Resource};
use super::{print, table, yaml};

/// List pods, services, configmaps, images, manifests or the node
#[derive(Args, Debug)]
pub(super) struct Get {
    /// What to list
    resource: Resource,
    /// Only the objects of these names
    names: Vec<String>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// No line of headings
    #[arg(long)]
    no_headers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
    Name,
}

impl Get {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let items = self.items(client).await?;
        match self.output {
            Some(Output::Json) => print(&format!("{}\n", serde_json::to_string_pretty(&self.document(items))?)),
            Some(Output::Yaml) => print(&yaml::to_string(&self.document(items))),
            Some(Output::Name) => items
                .iter()
                .try_for_each(|item| print(&format!("{}\n", self.resource.full_name(item)))),
            Some(Output::Wide) => self.table(&items, true),
            None => self.table(&items, false),
        }
    }

    async fn items(&self, client: &Client) -> anyhow::Result<Vec<Value>> {
        let mut items: Vec<Value> = client.get(&format!("/v1/{}", self.resource.path())).await?;
        if self.resource.is_namespaced() && !self.all_namespaces {
            items.retain(|item| row::namespace(item) == self.namespace.namespace);
        }
        for name in &self.names {
            if !items.iter().any(|item| self.resource.name(item) == *name) {
                anyhow::bail!("{} {name:?} not found", self.resource.path());
            }
        }
        if !self.names.is_empty() {
            items.retain(|item| self.names.iter().any(|name| self.resource.name(item) == *name));
        }
        Ok(items)
    }

    fn document(&self, mut items: Vec<Value>) -> Value {
        if self.names.len() == 1 && items.len() == 1 {
            return items.remove(0);
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn table(&self, items: &[Value], wide: bool) -> anyhow::Result<()> {
        if items.is_empty() {
            let place = match self.resource.is_namespaced() && !self.all_namespaces {
                true => format!(" in {} namespace", self.namespace.namespace),
                false => String::new(),
            };
            eprintln!("No resources found{place}.");
            return Ok(());
        }
        let with_namespace = self.all_namespaces && self.resource.is_namespaced();
        let now = crate::node::timestamp();
        let mut headings = row::headings(self.resource, wide);
        let mut rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| row::cells(self.resource, item, wide, now))
            .collect();
        if with_namespace {
            headings.insert(0, "NAMESPACE");
            rows.iter_mut()
                .zip(items)
                .for_each(|(row, item)| row.insert(0, row::namespace(item).into()));
        }
        let text = table::render(&headings, &rows);
        print(if self.no_headers {
            text.split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            &text
        })
    }
}
