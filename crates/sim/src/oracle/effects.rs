//! I6: the effect of a branch takes place at most once, and never after it was undone.

use crate::event::Slot;
use crate::participant::Kind;
use crate::world::World;

impl World {
    /// A participant has done the work of a branch.
    pub(crate) fn check_work(&mut self, slot: Slot, branch: u8) {
        let cell = self.cell(slot, branch).expect("it has just worked");
        let remembers = self.resources[usize::from(cell.resource)].kind == Kind::Service;
        // What a manager does again, it does in place of what it has rolled back.
        if !remembers || cell.is_excused() {
            return;
        }
        if cell.works > 1 {
            self.violated("I6", slot, || format!("b{branch} did its work again"));
        } else if cell.works == 1 && cell.barred {
            self.violated("I6", slot, || format!("b{branch} worked after its rollback"));
        }
    }

    /// The work of a branch has taken effect.
    pub(crate) fn check_effect(&mut self, slot: Slot, branch: u8) {
        let cell = self.cell(slot, branch).expect("it has just committed");
        if cell.effects > 1 && !cell.is_excused() {
            self.violated("I6", slot, || format!("b{branch} took effect again"));
        }
    }
}
