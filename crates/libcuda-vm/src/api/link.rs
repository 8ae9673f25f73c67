//! The linker: joins PTX texts. What it gives is PTX again, which the module calls take.
use crate::{
    context,
    ffi::{In, Out, Text, api},
    handle::{Table, lock},
    image::{Image, JitLog},
    join, module,
    result::{Code, Result},
};
use std::sync::{Arc, Mutex};

static LINKS: Table<Link> = Table::new(12, "link state");

/// Inputs of a link, and its output once there is one.
struct Link {
    log: JitLog,
    inputs: Mutex<Vec<Image>>,
    output: Mutex<Option<Box<[u8]>>>,
}

/// `CU_JIT_INPUT_PTX`.
const PTX: i32 = 1;

api! {
    fn cuLinkCreate_v2(count: u32, options: In<i32>, values: In<usize>, out: Out<usize>) {
        let out = out.required()?;
        context::current()?;
        let log = JitLog::read(count, options, values)?;
        let handle = LINKS.reserve();
        LINKS.insert(handle, Arc::new(Link { log, inputs: Mutex::default(), output: Mutex::default() }));
        out.set(handle)
    }

    fn cuLinkAddData_v2(
        link: usize, kind: i32, data: In<u8>, size: usize, name: Text, _count: u32, _options: In<i32>,
        _values: In<usize>,
    ) {
        let link = LINKS.get(link)?;
        let name = if name.is_null() { "ptx".into() } else { name.get()? };
        only_ptx(kind, &name)?;
        add(&link, Image::from_memory(&name, data, Some(size))?)
    }

    fn cuLinkAddFile_v2(link: usize, kind: i32, path: Text, _count: u32, _options: In<i32>, _values: In<usize>) {
        let link = LINKS.get(link)?;
        let path = path.get()?;
        only_ptx(kind, &path)?;
        add(&link, Image::from_file(&path)?)
    }

    fn cuLinkComplete(link: usize, image: Out<usize>, size: Out<usize>) {
        let image = image.required()?;
        let link = LINKS.get(link)?;
        let joined = join::join(&lock(&link.inputs))?;
        module::compile(&joined, &link.log)?;
        let mut bytes = joined.text.into_bytes();
        bytes.push(0);
        let mut output = lock(&link.output);
        let bytes = output.insert(bytes.into_boxed_slice());
        image.put(bytes.as_ptr().expose_provenance());
        size.put(bytes.len());
        Ok(())
    }

    fn cuLinkDestroy(link: usize) {
        LINKS.remove(link).map(|_| ())
    }
}

fn only_ptx(kind: i32, name: &str) -> Result<()> {
    match kind {
        PTX => Ok(()),
        0 | 2..=5 => {
            Err(Code::NO_BINARY_FOR_GPU.because(format!("{name} is no PTX, and the VM links nothing else")))
        }
        _ => Err(Code::INVALID_VALUE.because(format!("no kind of input {kind}"))),
    }
}

/// Inputs are compiled together: one may use what another defines.
fn add(link: &Link, image: Image) -> Result<()> {
    if lock(&link.output).is_some() {
        return Err(Code::INVALID_VALUE.because("the link is complete"));
    }
    lock(&link.inputs).push(image);
    Ok(())
}
