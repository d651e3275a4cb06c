//! Lists of servers: `show servers state`, `show servers conn`, `show backend`; and who is meant by a name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::plan::{Plan, Pool, Server};

use super::command::Whom;
use super::stat::backend_number;
use super::states::Sight;

const STATE_HEAD: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
     srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
     bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr \
     srv_agent_port\n";
const CONN_HEAD: &str = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb \
     idle_lim idle_cur idle_per_thr[";

/// What is told of each server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// `show servers state`.
    State,
    /// `show servers conn`.
    Connections,
}

/// A list, server by server.
#[derive(Debug)]
pub(super) struct Servers {
    plan: Arc<Plan>,
    about: About,
    workers: usize,
    /// Which pools are left, and the next server of the first of them.
    pools: std::ops::Range<usize>,
    server: usize,
    begun: bool,
}

impl Servers {
    /// All servers, or those of one backend.
    ///
    /// # Errors
    /// There is no such backend.
    pub(super) fn new(
        plan: Arc<Plan>,
        about: About,
        backend: Option<&str>,
        workers: usize,
    ) -> Result<Self, &'static str> {
        let pools = match backend {
            None => 0..plan.pools.len(),
            Some(name) => {
                let index = backend_index(&plan, name).ok_or("Can't find backend.")?;
                index..index + 1
            }
        };
        Ok(Self { plan, about, workers, pools, server: 0, begun: false })
    }

    /// Writes on, until `out` has `enough` bytes or nothing is left; whether something is.
    pub(super) fn write(&mut self, out: &mut String, enough: usize) -> bool {
        if !self.begun {
            self.begun = true;
            match self.about {
                About::State => out.push_str(STATE_HEAD),
                About::Connections => out.push_str(&format!("{CONN_HEAD}{}]\n", self.workers)),
            }
        }
        while out.len() < enough {
            let Some(pool) = self.plan.pools.get(self.pools.start).filter(|_| !self.pools.is_empty()) else {
                return false;
            };
            match pool.servers.get(self.server) {
                Some(server) => {
                    let ids = (backend_number(&self.plan, self.pools.start), self.server + 1);
                    out.push_str(&match self.about {
                        About::State => state(&Sight::of(pool, server), ids),
                        About::Connections => connections(&Sight::of(pool, server), ids, self.workers),
                    });
                    self.server += 1;
                }
                None => (self.pools.start, self.server) = (self.pools.start + 1, 0),
            }
        }
        true
    }
}

/// A line of version 1 of the format (HAProxy's management manual, `show servers state`).
fn state(sight: &Sight<'_>, (backend, id): (usize, usize)) -> String {
    let (pool, server) = (sight.pool, sight.server);
    let (operation, administration) = (sight.operation(), sight.administration());
    let (address, port) = sight.place();
    let since = sight.bulletin.since.elapsed().as_secs();
    // 2 failed, 3 passed. 6: a check is configured and enabled. A server that is not checked counts 1 of 1.
    let (status, result, counter, check) = match (sight.checked(), sight.counters()) {
        (Some((code, status, _)), Some((.., counter))) => {
            let result = match code {
                "INI" => 0,
                "L4OK" | "L7OK" => 3,
                _ => 2,
            };
            (status, result, counter, 6)
        }
        _ => (1, 0, 1, 0),
    };
    format!(
        "{backend} {} {id} {} {address} {operation} {administration} {} {} {since} {status} {result} {counter} {check} 0 0 0 \
         - {port} - 0 0 - - 0\n",
        pool.name, server.name, server.weight, server.weight_in_file
    )
}

/// Sessions hold their connection for as long as they last: none is idle.
fn connections(sight: &Sight<'_>, (backend, id): (usize, usize), workers: usize) -> String {
    let (pool, server) = (sight.pool, sight.server);
    let (address, port) = sight.place();
    let used = server.ledger.active.load(Ordering::Relaxed);
    let idle = " 0".repeat(workers);
    format!("{}/{} {backend}/{id} {address} {port} - 0 {used} {used} {used} 0 0 0 0{idle}\n", pool.name, server.name)
}

/// `show backend`.
pub(super) fn backends(plan: &Plan) -> String {
    let names = plan.pools.iter().map(|pool| format!("{}\n", pool.name));
    std::iter::once("# name\n".to_owned()).chain(names).collect()
}

/// `get weight`.
pub(super) fn weight(server: &Server) -> String {
    format!("{} (initial {})\n", server.weight, server.weight_in_file)
}

fn backend_index(plan: &Plan, name: &str) -> Option<usize> {
    match number(name) {
        Some(number) => number.checked_sub(backend_number(plan, 0)).filter(|&index| index < plan.pools.len()),
        None => plan.pools.iter().position(|pool| *pool.name == *name),
    }
}

/// `#1`: by number.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix('#')?.parse().ok()
}

/// Who is meant.
///
/// # Errors
/// There is no such backend, or no such server in it.
pub(super) fn find<'p>(plan: &'p Plan, whom: &Whom) -> Result<(&'p Pool, &'p Server), &'static str> {
    let index = backend_index(plan, &whom.backend).ok_or("No such backend.")?;
    let pool = plan.pools.get(index).ok_or("No such backend.")?;
    let server = match number(&whom.server) {
        Some(number) => number.checked_sub(1).and_then(|index| pool.servers.get(index)),
        None => pool.servers.iter().find(|server| *server.name == *whom.server),
    };
    server.map(|server| (&**pool, server)).ok_or("No such server.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Standing;
    use crate::observe::panel::tests::plan;

    fn list(plan: &Arc<Plan>, about: About, backend: Option<&str>) -> Result<Vec<String>, &'static str> {
        let (mut servers, mut out) = (Servers::new(Arc::clone(plan), about, backend, 2)?, String::new());
        // In two pieces.
        assert!(servers.write(&mut out, 1));
        assert!(!servers.write(&mut out, usize::MAX));
        Ok(out.lines().map(str::to_owned).collect())
    }

    /// The same words at the same places as HAProxy 2.6 has them.
    #[test]
    fn states() {
        let plan = Arc::new(plan());
        plan.pools[0].servers[1].ledger.set_standing(Standing::Maint);
        let lines = list(&plan, About::State, None).expect("all");
        assert_eq!(lines[0], "1");
        assert_eq!(lines[1].split(' ').count() - 1, lines[2].split(' ').count());
        assert_eq!(lines[2], "3 web 1 web1 10.0.0.21 2 0 1 1 0 1 0 1 0 0 0 0 - 80 - 0 0 - - 0");
        assert_eq!(lines[3], "3 web 2 web2 10.0.0.22 0 1 1 1 0 1 0 1 0 0 0 0 - 80 - 0 0 - - 0");
        assert_eq!(list(&plan, About::State, Some("#3")).map(|lines| lines.len()), Ok(4));
        for unknown in ["#2", "#4", "3", "wep", "#"] {
            assert_eq!(list(&plan, About::State, Some(unknown)), Err("Can't find backend."), "{unknown}");
        }
    }

    #[test]
    fn connections_and_backends() {
        let plan = Arc::new(plan());
        plan.pools[0].servers[0].ledger.active.store(7, Ordering::Relaxed);
        let lines = list(&plan, About::Connections, Some("web")).expect("it is there");
        assert!(
            lines[0].starts_with("# bkname/svname bkid/svid addr port - ") && lines[0].ends_with("idle_per_thr[2]")
        );
        assert_eq!(lines[1], "web/web1 3/1 10.0.0.21 80 - 0 7 7 7 0 0 0 0 0 0");
        assert_eq!(backends(&plan), "# name\nweb\n");
    }

    #[test]
    fn who_is_meant() {
        let plan = plan();
        let found = |backend: &str, server: &str| {
            let whom = Whom { backend: backend.into(), server: server.into() };
            find(&plan, &whom).map(|(pool, server)| format!("{}/{}", pool.name, server.name))
        };
        assert_eq!(found("web", "web2"), Ok("web/web2".into()));
        assert_eq!(found("#3", "#1"), Ok("web/web1".into()));
        assert_eq!(found("wep", "web2"), Err("No such backend."));
        assert_eq!(found("web", "web3"), Err("No such server."));
        assert_eq!(found("web", "#0"), Err("No such server."));
        assert_eq!(weight(&plan.pools[0].servers[0]), "1 (initial 1)\n");
    }
}
