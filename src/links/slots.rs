//! Numbered places for what a relaying thread watches. A number that the kernel still speaks of after its place has
//! been given to another is known by its generation. Called by `engine`.

/// Where something is, and which of those that were there in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// In a box: the list stays small, and what is gone costs nothing.
    value: Option<Box<T>>,
}

impl Token {
    /// 62 bits, with room for one more.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 31 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let low = |bits: u64| u32::try_from(bits & 0x7fff_ffff).expect("31 bits");
        Self { index: low(bits), generation: low(bits >> 31) }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn insert(&mut self, value: T) -> Token {
        let value = Some(Box::new(value));
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = value;
            return Token { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).expect("there are not so many descriptors");
        self.slots.push(Slot { generation: 0, value });
        Token { index, generation: 0 }
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.index as usize)?;
        slot.value.as_deref_mut().filter(|_| slot.generation == token.generation)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let slot =
            self.slots.get_mut(token.index as usize).filter(|slot| slot.generation == token.generation)?;
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & 0x7fff_ffff;
        self.free.push(token.index);
        Some(*value)
    }

    /// How many there are now.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All that there are now.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let all = self.slots.iter().zip(0..);
        all.filter(|(slot, _)| slot.value.is_some())
            .map(|(slot, index)| Token { index, generation: slot.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_again_is_not_mistaken() {
        let mut slots = Slots::default();
        let first = slots.insert("one");
        assert_eq!(Token::from_bits(first.to_bits()), first);
        assert_eq!(slots.remove(first), Some("one"));
        let second = slots.insert("two");
        assert_eq!((first.index, second.index), (0, 0));
        assert_eq!((slots.get_mut(first).copied(), slots.remove(first)), (None, None));
        assert_eq!(slots.get_mut(Token::from_bits(second.to_bits())).copied(), Some("two"));
        assert_eq!(slots.tokens(), [second]);
    }
}
