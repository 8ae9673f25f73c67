//! Renders `ptx/`.
fn main() {
    ptx_build::render();
}
