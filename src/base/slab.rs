//! A slab with generations: a stale key finds nothing, never somebody else.

/// Names one entry of a [`Slab`] for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Position in the slab.
    pub index: u32,
    /// Which tenant of that position, 24 bits.
    pub generation: u32,
}

/// Bits of a generation: with the index it fits in a ring's user data. A stale key is taken for a living one only after
/// 2^24 tenants of one position within the lifetime of one kernel request.
pub const GENERATION_BITS: u32 = 24;

/// Values at stable positions; positions are reused, the last freed first, so that a busy slab stays in cache.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts a value in and says where.
    pub fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return Key { index, generation: entry.generation };
        }
        let index = u32::try_from(self.entries.len()).expect("sessions are limited far below 2^32");
        self.entries.push(Entry { generation: 0, value: Some(value) });
        Key { index, generation: 0 }
    }

    /// Takes a value out; its key is dead from then on.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(key.index);
        Some(value)
    }

    /// The value behind a living key.
    #[inline]
    pub fn of(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        entry.value.as_mut()
    }

    /// The key of whatever lives at a position.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let entry = self.entries.get(index as usize)?;
        entry.value.as_ref().map(|_| Key { index, generation: entry.generation })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// One more than the highest position there has been.
    pub fn places(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("sessions are limited far below 2^32")
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values, by position.
    pub fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.entries.iter().filter_map(|entry| entry.value.as_ref())
    }

    /// The keys of all values, by position.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.value.is_some())
            .map(|(index, entry)| Key { index, generation: entry.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert('a');
        let b = slab.insert('b');
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        let c = slab.insert('c');
        assert_eq!(c.index, a.index);
        assert_eq!(slab.of(a), None);
        assert_eq!(slab.of(c), Some(&mut 'c'));
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.keys().collect::<Vec<_>>(), vec![c, b]);
    }
}
