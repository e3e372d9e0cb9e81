//! From the words of the command line to resources.

use crate::args::{Cli, Target};
use crate::fail::Fail;
use ghost::resource::{Layer, Options};
use ghost::{Registry, Resource};
use std::num::NonZeroU64;

/// All plug-ins, those of `--plugin` with them.
pub fn registry(cli: &Cli) -> Result<Registry, Fail> {
    let mut registry = Registry::with_defaults();
    for path in &cli.plugin {
        registry.load_plugin(path)?;
    }
    Ok(registry)
}

/// Where a ghost goes.
pub fn target(cli: &Cli, url: &str, target: &Target) -> Result<Box<dyn Resource>, Fail> {
    let mut options = Options { replace: target.replace, durable: !target.no_sync, ..Options::default() };
    options.network.retry_for = std::time::Duration::from_secs(10);
    if let Some(rate) = &target.rate {
        options.layers.push(Layer::RateLimit { bytes_per_s: bytes(rate)? });
    }
    if let Some(how) = &target.compress {
        options.layers.push(compression(how)?);
    }
    Ok(registry(cli)?.open_url(url, &options)?)
}

/// Where a ghost is.
pub fn source(cli: &Cli, url: &str) -> Result<Box<dyn Resource>, Fail> {
    Ok(registry(cli)?.open_url(url, &Options::default())?)
}

fn compression(how: &str) -> Result<Layer, Fail> {
    match how.split_once(':').unwrap_or((how, "")) {
        ("lz4", "") => Ok(Layer::Lz4),
        ("zstd", "") => Ok(Layer::Zstd { level: 1 }),
        ("zstd", level) => match level.parse() {
            Ok(level @ 1..=22) => Ok(Layer::Zstd { level }),
            _ => Err(Fail::Usage(format!("zstd has the levels 1 to 22, not {level}"))),
        },
        _ => Err(Fail::Usage(format!("compression {how} is not known: zstd, zstd:LEVEL, lz4"))),
    }
}

fn bytes(text: &str) -> Result<NonZeroU64, Fail> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_lowercase().trim_end_matches(['b', 'i']) {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(Fail::Usage(format!("{text} is not a number of bytes (try 200k, 1m, 2g)"))),
    };
    match digits.parse::<u64>().ok().and_then(|n| NonZeroU64::new(n.checked_mul(factor)?)) {
        Some(n) => Ok(n),
        None => Err(Fail::Usage(format!("{text} is not a number of bytes (try 200k, 1m, 2g)"))),
    }
}
