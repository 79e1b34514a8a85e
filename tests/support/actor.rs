//! One payload program: everything a supervised process may do to its init. (to come)
fn main() {}
