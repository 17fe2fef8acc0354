//! Other people's tools against a volume's NBD socket.

use super::stage::{PATIENCE, Stage};
use crate::error::{LabError, Result, refuse};
use crate::lab::node;
use std::thread;
use std::time::{Duration, Instant};

/// qemu-img, nbdinfo, nbdcopy and fio, each with what it is used for.
pub fn nbd(stage: &mut Stage) -> Result<()> {
    let active = stage.site.active()?;
    for tool in ["qemu-img", "nbdinfo", "nbdcopy", "fio"] {
        if node::output(&stage.lab, &active, &["which", tool]).is_err() {
            return Err(LabError::Missing(format!("the tool {tool} is not installed")));
        }
    }
    stage.site.must(&active, &["volume", "create", "bare", "--size", "64M"])?;
    stage.site.wait("a bare volume", PATIENCE, |status| status.has_volume("bare"))?;
    let holder = holder(stage)?;
    let uri = "nbd+unix:///?socket=/run/anshin/volume-bare.nbd";
    let script = |text: &str| {
        node::output(&stage.lab, &holder, &["sh", "-ec", &text.replace("URI", &format!("'{uri}'"))])
    };
    script("head -c 67108864 /dev/urandom > /tmp/pattern")?;
    for (what, text) in [
        ("nbdinfo", "nbdinfo URI"),
        ("nbdcopy in", "nbdcopy --flush /tmp/pattern URI"),
        ("nbdcopy out", "nbdcopy URI /tmp/copy && cmp /tmp/pattern /tmp/copy"),
        ("qemu-img compare", "qemu-img compare -f raw -F raw /tmp/pattern URI"),
        (
            "qemu-img convert",
            "rm -f /tmp/copy; qemu-img convert -f raw -O raw URI /tmp/copy && cmp /tmp/pattern /tmp/copy",
        ),
        ("qemu-img bench", "qemu-img bench -f raw -w -c 2000 -d 16 -s 4096 URI"),
        (
            "fio",
            "fio --name=v --ioengine=nbd --uri=URI --rw=randwrite --bs=16k --size=32m --iodepth=16 --verify=crc32c --do_verify=1",
        ),
    ] {
        script(text)?;
        stage.report.say(&format!("{what} works"));
    }
    script("rm -f /tmp/pattern /tmp/copy")?;
    stage.report.row(&[("tools", 4.0)]);
    Ok(())
}

/// The node on which the bare volume is served, once one does.
fn holder(stage: &Stage) -> Result<String> {
    let serves = |name: &&String| {
        node::output(&stage.lab, name, &["test", "-S", "/run/anshin/volume-bare.nbd"]).is_ok()
            && node::output(&stage.lab, name, &["test", "-e", "/dev/anshin/bare"]).is_ok()
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(holder) = stage.site.data_nodes().iter().find(serves) {
            return Ok(holder.clone());
        }
        thread::sleep(Duration::from_millis(100));
    }
    refuse("no node serves the bare volume")
}
