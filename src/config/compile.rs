//! Draft → plan. What did not change keeps its very object, so that a reload of the same file leaves nothing behind.

use std::sync::Arc;

use super::draft::{Draft, ListenerDraft, PoolDraft, ServerDraft};
use super::ledger::Registry;
use super::maglev::{self, Share};
use super::plan::{Address, Listener, Plan, Policy, Pool, Server};
use super::rotation::rotation;
use crate::base::bucket::Rate;
use crate::base::digest::digest;

impl Draft {
    /// Makes the plan that follows `previous`. Ledgers come from `registry` by identity; listeners and pools that are
    /// equal to those of `previous` are the same objects.
    pub fn compile(&self, registry: &mut Registry, previous: Option<&Plan>) -> Plan {
        let before = |pools: &[Arc<Pool>], name: &str| find(pools, name, |pool| &pool.name);
        let pools: Vec<Arc<Pool>> = self
            .pools
            .iter()
            .map(|draft| {
                let old = previous.and_then(|plan| before(&plan.pools, &draft.name.value));
                match old {
                    Some(old) if same_pool(draft, &old) => old,
                    _ => Arc::new(compile_pool(draft, registry)),
                }
            })
            .collect();
        let listeners = self
            .listeners
            .iter()
            .map(|draft| {
                let pool = before(&pools, &draft.pool.value).expect("the rules found the pool of every listener");
                let old = previous.and_then(|plan| find(&plan.listeners, &draft.name.value, |listener| &listener.name));
                match old {
                    Some(old) if same_listener(draft, &pool, &old) => old,
                    _ => Arc::new(compile_listener(draft, pool, registry)),
                }
            })
            .collect();
        Plan {
            generation: previous.map_or(1, |plan| plan.generation + 1),
            global: self.global.clone(),
            log: self.log.clone(),
            admin: self.admin.clone(),
            listeners,
            pools,
        }
    }
}

/// Looks `name` up in a list that is sorted by name.
fn find<T>(list: &[Arc<T>], name: &str, named: impl Fn(&T) -> &str) -> Option<Arc<T>> {
    let index = list.binary_search_by(|item| named(item).cmp(name)).ok()?;
    list.get(index).cloned()
}

fn same_listener(draft: &ListenerDraft, pool: &Arc<Pool>, old: &Listener) -> bool {
    Arc::ptr_eq(pool, &old.pool)
        && draft.role.as_ref().map(|role| role.value) == old.role
        && draft.binds.iter().map(|bind| &bind.value).eq(&old.binds)
}

fn same_pool(draft: &PoolDraft, old: &Pool) -> bool {
    draft.kind == old.kind
        && draft.policy == old.policy
        && draft.terms == old.terms
        && draft.care == old.care
        && draft.slow_start_ms == old.slow_start_ms
        && draft.servers.len() == old.servers.len()
        && draft.servers.iter().zip(&old.servers).all(|(draft, old)| same_server(draft, old))
}

fn same_server(draft: &ServerDraft, old: &Server) -> bool {
    draft.name.value == old.name
        && draft.address.value == old.address
        && draft.weight == old.weight
        && draft.weight_in_file == old.weight_in_file
        && draft.max_connections == old.max_connections
        && draft.connect_rate == old.connect_rate
        && draft.backup == old.backup
        && draft.standing == old.standing
}

fn compile_listener(draft: &ListenerDraft, pool: Arc<Pool>, registry: &mut Registry) -> Listener {
    Listener {
        name: draft.name.value.clone(),
        binds: draft.binds.iter().map(|bind| bind.value.clone()).collect(),
        pool,
        role: draft.role.as_ref().map(|role| role.value),
        ledger: registry.listener(&draft.name.value),
    }
}

fn compile_pool(draft: &PoolDraft, registry: &mut Registry) -> Pool {
    let weights: Vec<u16> = draft.servers.iter().map(|server| if server.backup { 0 } else { server.weight }).collect();
    let servers: Vec<Server> =
        draft.servers.iter().map(|server| compile_server(&draft.name.value, server, registry)).collect();
    let shares = || servers.iter().zip(&weights).map(|(server, &weight)| Share { key: server.key, weight });
    Pool {
        name: draft.name.value.clone(),
        kind: draft.kind,
        policy: draft.policy,
        rotation: rotation(&weights),
        table: match draft.policy {
            Policy::Maglev => maglev::table(&shares().collect::<Vec<_>>()),
            Policy::RoundRobin | Policy::LeastConnections | Policy::RandomTwo | Policy::SourceHash | Policy::First => {
                Vec::new()
            }
        },
        is_paced: servers.iter().any(|server| server.rate.is_some()),
        servers,
        terms: draft.terms.clone(),
        care: draft.care.clone(),
        slow_start_ms: draft.slow_start_ms,
        ledger: registry.pool(&draft.name.value),
    }
}

fn compile_server(pool: &str, draft: &ServerDraft, registry: &mut Registry) -> Server {
    let address = &draft.address.value;
    Server {
        name: draft.name.value.clone(),
        key: digest(draft.name.value.as_bytes()),
        address: address.clone(),
        sockaddr: match address {
            Address::Inet(inet) => (*inet).into(),
            Address::Unix(path) => socket2::SockAddr::unix(path).expect("the path was read as one that fits"),
        },
        weight: draft.weight,
        weight_in_file: draft.weight_in_file,
        max_connections: draft.max_connections,
        connect_rate: draft.connect_rate,
        rate: draft
            .connect_rate
            .map(|rate| Rate::new(rate.count, u64::from(rate.per.seconds()) * 1_000_000_000, rate.burst)),
        backup: draft.backup,
        standing: draft.standing,
        ledger: registry.server(pool, &draft.name.value, &address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn draft(text: &str) -> Draft {
        parse("t.toml", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"))
    }

    const TEXT: &str = r#"
        [listeners.web]
        bind = "127.0.0.1:8080"
        pool = "web"
        [pools.web]
        servers = [
          { name = "a", address = "127.0.0.1:81", weight = 2 },
          { name = "b", address = "unix:/run/b.sock" },
          { name = "c", address = "127.0.0.1:83", backup = true },
        ]
        [pools.other]
        servers = [{ name = "a", address = "127.0.0.1:84" }]
    "#;

    #[test]
    fn an_unchanged_file_keeps_every_object() {
        let mut registry = Registry::new(1);
        let first = draft(TEXT).compile(&mut registry, None);
        let again = draft(TEXT).compile(&mut registry, Some(&first));
        assert_eq!((first.generation, again.generation), (1, 2));
        assert!(Arc::ptr_eq(&first.listeners[0], &again.listeners[0]));
        assert!(first.pools.iter().zip(&again.pools).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert_eq!(first.pools[1].rotation, [0, 1, 0]);
    }

    #[test]
    fn a_changed_pool_is_new_and_keeps_the_ledgers_of_what_stayed() {
        let mut registry = Registry::new(1);
        let first = draft(TEXT).compile(&mut registry, None);
        let text = TEXT.replace("weight = 2", "weight = 3").replace(":83", ":93");
        let second = draft(&text).compile(&mut registry, Some(&first));
        assert!(Arc::ptr_eq(&first.pools[0], &second.pools[0]));
        let [old, new] = [&first.pools[1], &second.pools[1]];
        assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(&old.ledger, &new.ledger));
        assert!(Arc::ptr_eq(&old.servers[0].ledger, &new.servers[0].ledger));
        assert!(!Arc::ptr_eq(&old.servers[2].ledger, &new.servers[2].ledger));
        assert!(Arc::ptr_eq(&first.listeners[0].ledger, &second.listeners[0].ledger));
        assert!(Arc::ptr_eq(&second.listeners[0].pool, new));
        assert_eq!(new.rotation, [0, 0, 1, 0]);
    }
}
