//! A table whose slots are used again, each time under another generation.

use std::ops::{Index, IndexMut};

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// How many values have left this slot.
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize].value = Some(value);
            return index;
        }
        let index = u32::try_from(self.slots.len()).expect("memory ends before four billion slots");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        index
    }

    /// Panics when the slot is empty: who removes holds the only name of the value.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let slot = &mut self.slots[index as usize];
        let value = slot.value.take().expect("a slot is emptied once");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        value
    }

    pub(super) fn generation(&self, index: u32) -> u32 {
        self.slots[index as usize].generation
    }

    /// All full slots.
    pub(super) fn indexes(&self) -> Vec<u32> {
        let full = self.slots.iter().zip(0..).filter(|(slot, _)| slot.value.is_some());
        full.map(|(_, index)| index).collect()
    }

    /// The index, if it still belongs to that generation.
    pub(super) fn live(&self, index: u32, generation: u32) -> Option<u32> {
        let slot = self.slots.get(index as usize)?;
        (slot.generation == generation && slot.value.is_some()).then_some(index)
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.slots[index as usize].value.as_ref().expect("an index names a full slot")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].value.as_mut().expect("an index names a full slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_under_another_generation() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        let generation = slab.generation(first);
        assert_eq!(slab.live(first, generation), Some(first));
        assert_eq!(slab.remove(first), "first");
        assert_eq!(slab.live(first, generation), None);
        assert_eq!(slab.insert("second"), first);
        assert_eq!(slab.live(first, generation), None);
        assert_eq!(slab[first], "second");
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.live(7, 0), None);
    }
}
