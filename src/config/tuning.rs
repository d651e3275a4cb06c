//! Weights and limits of servers as an operator has set them while the daemon runs, beside the file.
//!
//! What is set holds as long as the file says what it said then: whoever changes the file means the file.

use std::collections::BTreeMap;

use super::draft::{Draft, ServerDraft};
use super::limits::{CONNECTIONS, WEIGHT};

/// What is to be set of one server; `None` is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its weight, 0 to 256.
    pub weight: Option<u32>,
    /// Sessions it may have, up to 10 million; 0: any number.
    pub max_connections: Option<u32>,
}

/// All that is set beside the file, by pool and server.
#[derive(Clone, Debug, Default)]
pub struct Tunings(BTreeMap<(String, String), Tuning>);

#[derive(Clone, Copy, Debug, Default)]
struct Tuning {
    weight: Option<Tuned>,
    max_connections: Option<Tuned>,
}

/// A value that stands in for that of the file.
#[derive(Clone, Copy, Debug)]
struct Tuned {
    in_file: u32,
    set: u32,
}

impl Tunings {
    /// Sets something of a server of `draft`, which is the file as it is; one that is set to what the file says is set no more.
    ///
    /// # Errors
    /// There is no such server, or the value is out of range, or would leave the pool without a server that takes sessions;
    /// in words for whoever asked.
    pub fn set(&mut self, draft: &Draft, pool: &str, server: &str, wish: Wish) -> Result<(), String> {
        let found = draft.pools.iter().find(|each| *each.name.value == *pool);
        let servers = found.map_or(&[][..], |pool| &pool.servers);
        let Some(at) = servers.iter().position(|each| *each.name.value == *server) else {
            return Err(format!("there is no server \"{server}\" in a pool \"{pool}\""));
        };
        if let Some(weight) = wish.weight.filter(|weight| !(WEIGHT.least..=WEIGHT.most).contains(weight)) {
            return Err(format!("the weight {weight} is not from {} to {}", WEIGHT.least, WEIGHT.most));
        }
        if let Some(most) = wish.max_connections.filter(|most| *most > CONNECTIONS.most) {
            return Err(format!("max_connections {most} is above {}; 0 is no limit", CONNECTIONS.most));
        }
        let mut next = self.clone();
        let tuning = next.0.entry((pool.to_owned(), server.to_owned())).or_default();
        let tuned = |wish: Option<u32>, in_file: u32, before: Option<Tuned>| match wish {
            Some(set) => (set != in_file).then_some(Tuned { in_file, set }),
            None => before,
        };
        tuning.weight = tuned(wish.weight, servers[at].weight.into(), tuning.weight);
        tuning.max_connections = tuned(wish.max_connections, servers[at].max_connections, tuning.max_connections);
        let weight = |each: &ServerDraft| next.of(pool, each).weight.map_or(each.weight.into(), |weight| weight.set);
        if servers.iter().all(|each| weight(each) == 0) {
            return Err(format!("every server of pool \"{pool}\" would have weight 0, and nobody would be served"));
        }
        *self = next;
        Ok(())
    }

    /// Puts what is set into a configuration; what the file has changed since, or has no more, is forgotten.
    pub fn apply(&mut self, draft: &mut Draft) {
        let mut kept = BTreeMap::new();
        for pool in &mut draft.pools {
            for server in &mut pool.servers {
                let mut tuning = self.of(&pool.name.value, server);
                tuning.weight = tuning.weight.filter(|weight| weight.in_file == u32::from(server.weight));
                tuning.max_connections = tuning.max_connections.filter(|most| most.in_file == server.max_connections);
                if let Some(weight) = tuning.weight.and_then(|weight| u16::try_from(weight.set).ok()) {
                    server.weight = weight;
                }
                if let Some(most) = tuning.max_connections {
                    server.max_connections = most.set;
                }
                if tuning.weight.is_some() || tuning.max_connections.is_some() {
                    kept.insert((pool.name.value.to_string(), server.name.value.to_string()), tuning);
                }
            }
            // The file may have taken their weight from all others.
            if pool.servers.iter().all(|server| server.weight == 0) {
                for server in &mut pool.servers {
                    let key = (pool.name.value.to_string(), server.name.value.to_string());
                    if let Some(weight) = kept.get_mut(&key).and_then(|tuning| tuning.weight.take()) {
                        server.weight = u16::try_from(weight.in_file).unwrap_or(server.weight);
                    }
                }
            }
        }
        self.0 = kept;
    }

    fn of(&self, pool: &str, server: &ServerDraft) -> Tuning {
        if self.0.is_empty() {
            return Tuning::default();
        }
        self.0.get(&(pool.to_owned(), server.name.value.to_string())).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[listeners.l]\nbind = '127.0.0.1:80'\npool = 'web'\n[pools.web]\nservers = [\n{ name = 'a', address = \
                        '127.0.0.1:1' },\n{ name = 'b', address = '127.0.0.1:2', weight = 2, max_connections = 9 }]\n";

    fn draft(text: &str) -> Draft {
        crate::config::parse("test", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"))
    }

    /// Weight and limit of both servers of a file.
    fn tuned(tunings: &mut Tunings, text: &str) -> [(u16, u32); 2] {
        let mut draft = draft(text);
        tunings.apply(&mut draft);
        [0, 1].map(|at| (draft.pools[0].servers[at].weight, draft.pools[0].servers[at].max_connections))
    }

    fn weight(weight: u32) -> Wish {
        Wish { weight: Some(weight), max_connections: None }
    }

    #[test]
    fn what_is_set_holds_until_the_file_says_something_else() {
        let mut tunings = Tunings::default();
        let most = Wish { weight: None, max_connections: Some(0) };
        tunings.set(&draft(TEXT), "web", "a", weight(5)).expect("right");
        tunings.set(&draft(TEXT), "web", "b", most).expect("right");
        assert_eq!(tuned(&mut tunings, TEXT), [(5, 0), (2, 0)]);
        let other_limit = TEXT.replace("max_connections = 9", "max_connections = 8");
        assert_eq!(tuned(&mut tunings, &other_limit), [(5, 0), (2, 8)], "the file was changed");
        assert_eq!(tuned(&mut tunings, TEXT), [(5, 0), (2, 9)], "and what was set is forgotten");
        tunings.set(&draft(TEXT), "web", "a", weight(1)).expect("right");
        assert!(tunings.0.values().all(|tuning| tuning.weight.is_none()), "that is what the file says");
    }

    #[test]
    fn one_key_leaves_the_other() {
        let mut tunings = Tunings::default();
        tunings.set(&draft(TEXT), "web", "b", weight(7)).expect("right");
        tunings.set(&draft(TEXT), "web", "b", Wish { weight: None, max_connections: Some(3) }).expect("right");
        assert_eq!(tuned(&mut tunings, TEXT), [(1, 0), (7, 3)]);
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut tunings = Tunings::default();
        let mut refused = |server: &str, wish: Wish, part: &str| {
            let error = tunings.set(&draft(TEXT), "web", server, wish).expect_err(part);
            assert!(error.contains(part), "{error}");
            assert_eq!(tuned(&mut tunings, TEXT), [(1, 0), (2, 9)]);
        };
        refused("c", weight(1), "no server \"c\"");
        refused("a", weight(257), "not from 0 to 256");
        refused("a", Wish { weight: None, max_connections: Some(10_000_001) }, "above 10000000");
        tunings.set(&draft(TEXT), "web", "a", weight(0)).expect("b is left");
        let error = tunings.set(&draft(TEXT), "web", "b", weight(0)).expect_err("the last");
        assert!(error.contains("every server"), "{error}");
    }

    #[test]
    fn a_file_that_takes_the_weight_of_the_others_is_not_left_with_nobody() {
        let mut tunings = Tunings::default();
        tunings.set(&draft(TEXT), "web", "a", weight(0)).expect("b is left");
        assert_eq!(tuned(&mut tunings, &TEXT.replace("weight = 2", "weight = 0")), [(1, 0), (0, 9)]);
    }
}
