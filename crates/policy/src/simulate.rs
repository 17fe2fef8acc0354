//! The text of a dry run.

use crate::cib;
use crate::text;
use crate::world::World;
use anshin_base::Problem;

/// Plans for the CIB document `xml` as of `time` (or the time it names itself) and tells what would happen.
pub fn simulate(xml: &str, time: Option<&str>) -> Result<String, Problem> {
    let input = cib::read(xml, time)?;
    let world = World::new(&input.cluster, input.now);
    let mut out = String::from("Current cluster status:\n");
    out.push_str(&text::status(&world));
    Ok(out)
}
