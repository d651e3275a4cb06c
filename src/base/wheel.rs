//! A hierarchical timer wheel: one timer a key, every operation in constant time, no allocation once it has grown.
//!
//! Four levels of 64 slots. A timer sits in the level where its time first differs from the wheel's own, and moves down
//! a level each time the wheel reaches its slot: at most three moves in its life. One that lies beyond the last level
//! (about 18 hours) is put into the farthest slot; whoever set it finds, when it fires, that it came early and sets it
//! again. Keys are small dense numbers (slab indices); the links are two of them and a tick, 24 bytes a key.

/// One tick, in nanoseconds: 4 ms. A timer fires up to one tick late, never early (but see above).
pub const TICK_NS: u64 = 4_000_000;

const LEVELS: usize = 4;
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;
const SPAN_TICKS: u64 = 1 << (SLOT_BITS * LEVELS as u32);
const NONE: u32 = u32::MAX;

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    /// Ticks that have passed; every timer lies after it.
    elapsed: u64,
    levels: [Level; LEVELS],
    links: Vec<Link>,
}

#[derive(Debug)]
struct Level {
    /// Bit n: slot n is not empty.
    occupied: u64,
    heads: [u32; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// When it fires; 0 while it is not set.
    tick: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    level: u8,
    slot: u8,
}

const UNSET: Link = Link { next: NONE, previous: NONE, tick: 0, place: Place { level: 0, slot: 0 } };

impl Wheel {
    /// An empty wheel that starts at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self {
            elapsed: now_ns / TICK_NS,
            levels: std::array::from_fn(|_| Level { occupied: 0, heads: [NONE; SLOTS] }),
            links: Vec::new(),
        }
    }

    /// Sets the timer of `key` to fire at `at_ns` (rounded up to a tick), in place of any it had.
    pub fn set(&mut self, key: u32, at_ns: u64) {
        self.clear(key);
        if self.links.len() <= key as usize {
            self.links.resize(key as usize + 1, UNSET);
        }
        let tick = at_ns.div_ceil(TICK_NS).max(self.elapsed + 1);
        self.link(key, tick);
    }

    /// Takes the timer of `key` away, if it has one.
    pub fn clear(&mut self, key: u32) {
        let Some(link) = self.links.get(key as usize).copied() else { return };
        if link.tick == 0 {
            return;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        if link.previous != NONE {
            self.links[link.previous as usize].next = link.next;
        } else {
            let level = &mut self.levels[link.place.level as usize];
            level.heads[link.place.slot as usize] = link.next;
            if link.next == NONE {
                level.occupied &= !(1 << link.place.slot);
            }
        }
        self.links[key as usize] = UNSET;
    }

    /// When the wheel next has something to do, in nanoseconds; `None` when it is empty. May be sooner than the next timer
    /// (a slot that only moves down), never later.
    pub fn next_ns(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, tick)| tick * TICK_NS)
    }

    /// Appends the keys whose time has come and forgets their timers.
    pub fn expire(&mut self, now_ns: u64, due: &mut Vec<u32>) {
        let now = now_ns / TICK_NS;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            let mut key = std::mem::replace(&mut self.levels[level].heads[slot], NONE);
            self.levels[level].occupied &= !(1 << slot);
            while key != NONE {
                let link = std::mem::replace(&mut self.links[key as usize], UNSET);
                if link.tick <= self.elapsed {
                    due.push(key);
                } else {
                    self.link(key, link.tick);
                }
                key = link.next;
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    fn link(&mut self, key: u32, tick: u64) {
        let reach = tick.min(self.elapsed + SPAN_TICKS - 1);
        let level = level_of(self.elapsed, reach);
        let slot = ((reach >> (SLOT_BITS * level as u32)) as usize) % SLOTS;
        let head = std::mem::replace(&mut self.levels[level].heads[slot], key);
        self.levels[level].occupied |= 1 << slot;
        if head != NONE {
            self.links[head as usize].previous = key;
        }
        // A timer beyond the span fires when its slot comes round: its tick is the slot's, not its own.
        self.links[key as usize] =
            Link { next: head, previous: NONE, tick: reach, place: Place { level: level as u8, slot: slot as u8 } };
    }

    /// The first slot with anything in it, and the tick at which the wheel reaches it.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        for (depth, level) in self.levels.iter().enumerate() {
            if level.occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * depth as u32;
            let here = ((self.elapsed >> shift) as usize) % SLOTS;
            let ahead = level.occupied.rotate_right(here as u32).trailing_zeros() as usize;
            let slot = (here + ahead) % SLOTS;
            let lap = 1u64 << (shift + SLOT_BITS);
            let mut tick = (self.elapsed & !(lap - 1)) + ((slot as u64) << shift);
            if tick <= self.elapsed && slot != here || tick < self.elapsed {
                tick += lap;
            }
            return Some((depth, slot, tick));
        }
        None
    }
}

/// The level at which `tick` first differs from `elapsed`.
fn level_of(elapsed: u64, tick: u64) -> usize {
    let differing = (elapsed ^ tick) | (SLOTS as u64 - 1);
    let highest = 63 - differing.leading_zeros();
    ((highest / SLOT_BITS) as usize).min(LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0u64..200, 0u64..20_000, 0u64..(1 << 22)];
        prop_oneof![
            4 => (0u32..40, span.clone()).prop_map(|(key, ticks)| Step::Set(key, ticks)),
            1 => (0u32..40).prop_map(Step::Clear),
            3 => span.prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn it_fires_what_a_sorted_map_would(start in 0u64..1 << 40, steps in prop::collection::vec(step(), 1..120)) {
            let mut now = start;
            let mut wheel = Wheel::new(now * TICK_NS);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(key, ticks) => {
                        wheel.set(key, (now + ticks) * TICK_NS);
                        model.insert(key, (now + ticks).max(now + 1));
                    }
                    Step::Clear(key) => {
                        wheel.clear(key);
                        model.remove(&key);
                    }
                    Step::Advance(ticks) => {
                        now += ticks;
                        let mut due = Vec::new();
                        wheel.expire(now * TICK_NS, &mut due);
                        due.sort_unstable();
                        let expected: Vec<u32> = model.iter().filter(|&(_, &at)| at <= now).map(|(&key, _)| key).collect();
                        model.retain(|_, &mut at| at > now);
                        prop_assert_eq!(due, expected);
                    }
                }
                let next = wheel.next_ns().map(|ns| ns / TICK_NS);
                match model.values().min() {
                    None => prop_assert_eq!(next, None),
                    Some(&at) => {
                        let next = next.expect("a timer is set");
                        prop_assert!(next <= at && next > now, "next {} at {} now {}", next, at, now);
                    }
                }
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_span_fires_early_and_is_set_again() {
        let mut wheel = Wheel::new(0);
        let far = 5 * SPAN_TICKS;
        wheel.set(3, far * TICK_NS);
        let mut now = 0;
        let mut rounds = 0;
        while now < far {
            now = wheel.next_ns().expect("it is set") / TICK_NS;
            let mut due = Vec::new();
            wheel.expire(now * TICK_NS, &mut due);
            if due == [3] && now < far {
                wheel.set(3, far * TICK_NS);
            }
            rounds += 1;
            assert!(rounds < 100, "stuck at {now}");
        }
        assert_eq!(now, far);
    }
}
