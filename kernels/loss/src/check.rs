//! Checks that several losses share.

use kernel_abi::{ArgError, In, expect_len};

/// `targets` has `rows` elements, each below `classes`.
pub(crate) fn targets(
    kernel: &'static str,
    targets: In<'_, u32>,
    rows: usize,
    classes: usize,
) -> Result<(), ArgError> {
    expect_len(kernel, "targets", targets.len(), rows)?;
    let In::Host(t) = targets else { return Ok(()) };
    match t.iter().position(|t| *t as usize >= classes) {
        Some(i) => {
            let problem = format!("row {i} has class {}, expected one below {classes}", t[i]);
            Err(ArgError { kernel, arg: "targets", problem })
        }
        None => Ok(()),
    }
}

/// The inverse temperature is positive and finite.
pub(crate) fn inv_temperature(kernel: &'static str, value: f32) -> Result<(), ArgError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    let problem = format!("is {value}, expected a positive finite number");
    Err(ArgError { kernel, arg: "inv_temperature", problem })
}
