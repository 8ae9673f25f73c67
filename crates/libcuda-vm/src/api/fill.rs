//! Fills.
use crate::{
    context,
    ffi::api,
    op::{FillOp, Op},
    place,
    result::{Code, Result},
    submit,
};

api! {
    ptds fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) {
        now(line(dst, value.into(), 1, count)?)
    }

    ptds fn cuMemsetD16_v2(dst: u64, value: u16, count: usize) {
        now(line(dst, value.into(), 2, count)?)
    }

    ptds fn cuMemsetD32_v2(dst: u64, value: u32, count: usize) {
        now(line(dst, value, 4, count)?)
    }

    ptds fn cuMemsetD2D8_v2(dst: u64, pitch: usize, value: u8, width: usize, height: usize) {
        now(rows(dst, pitch, value.into(), 1, width, height)?)
    }

    ptds fn cuMemsetD2D16_v2(dst: u64, pitch: usize, value: u16, width: usize, height: usize) {
        now(rows(dst, pitch, value.into(), 2, width, height)?)
    }

    ptds fn cuMemsetD2D32_v2(dst: u64, pitch: usize, value: u32, width: usize, height: usize) {
        now(rows(dst, pitch, value, 4, width, height)?)
    }

    ptsz fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: usize) {
        later(stream, line(dst, value.into(), 1, count)?)
    }

    ptsz fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: usize) {
        later(stream, line(dst, value.into(), 2, count)?)
    }

    ptsz fn cuMemsetD32Async(dst: u64, value: u32, count: usize, stream: usize) {
        later(stream, line(dst, value, 4, count)?)
    }

    ptsz fn cuMemsetD2D8Async(dst: u64, pitch: usize, value: u8, width: usize, height: usize, stream: usize) {
        later(stream, rows(dst, pitch, value.into(), 1, width, height)?)
    }

    ptsz fn cuMemsetD2D16Async(dst: u64, pitch: usize, value: u16, width: usize, height: usize, stream: usize) {
        later(stream, rows(dst, pitch, value.into(), 2, width, height)?)
    }

    ptsz fn cuMemsetD2D32Async(dst: u64, pitch: usize, value: u32, width: usize, height: usize, stream: usize) {
        later(stream, rows(dst, pitch, value, 4, width, height)?)
    }
}

fn now(fill: Option<FillOp>) -> Result<()> {
    fill.map_or(Ok(()), |fill| submit::and_wait(Op::Fill(fill)))
}

fn later(stream: usize, fill: Option<FillOp>) -> Result<()> {
    fill.map_or(Ok(()), |fill| submit::to(stream, Op::Fill(fill)))
}

fn line(dst: u64, value: u32, element: usize, count: usize) -> Result<Option<FillOp>> {
    rows(dst, count.saturating_mul(element), value, element, count, 1)
}

/// A fill of `height` rows of `width` elements, checked; `None` when there is nothing to fill.
pub fn rows(
    dst: u64,
    pitch: usize,
    value: u32,
    element: usize,
    width: usize,
    height: usize,
) -> Result<Option<FillOp>> {
    context::current()?;
    if width == 0 || height == 0 {
        return Ok(None);
    }
    if !dst.is_multiple_of(element as u64) || (height > 1 && !pitch.is_multiple_of(element)) {
        return Err(
            Code::INVALID_VALUE.because(format!("{dst:#x} or the pitch is not aligned to {element} bytes"))
        );
    }
    let span = || {
        let row = width.checked_mul(element).filter(|&row| height == 1 || row <= pitch)?;
        (height - 1).checked_mul(pitch)?.checked_add(row)
    };
    let span = span().ok_or_else(|| Code::INVALID_VALUE.because("a row is larger than its pitch"))?;
    let dst = place::of_device(dst, span)?;
    Ok(Some(FillOp { dst, value, element, width, height, pitch }))
}
