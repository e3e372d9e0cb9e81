//! Modified Gram-Schmidt: from a set of vectors an orthonormal basis. The program of the experiment of 2005.
//!
//! A matrix of N × N doubles, one vector a row. For each vector: divide it by its length, then take its part out of all that come
//! after. It is done over and over with new vectors, so that small N run long enough, and prints one checksum at its end: the
//! bits of all bases, in order. The same numbers in the same order give the same bits, interrupted or not.

use super::{Life, mix};
use ghost_victims::kit::Res;

/// Runs `rounds` rounds on N vectors of length N, and prints the checksum.
pub fn run(mut life: Life, n: usize, rounds: u64) -> Res {
    let mut v = vec![0.0; n * n];
    let mut checksum = 0_u64;
    fill(&mut v, 0);
    life.ready()?;
    for round in 0..rounds {
        fill(&mut v, round);
        orthonormalise(&mut v, n, || life.beat())?;
        checksum = v.iter().fold(checksum, |h, x| (h ^ x.to_bits()).wrapping_mul(0x100_0000_01b3));
    }
    println!("n={n} rounds={rounds} checksum={checksum:016x} error={:.1e}", worst(&v, n));
    Ok(())
}

/// Vectors of numbers between -1 and 1.
fn fill(v: &mut [f64], round: u64) {
    for (i, x) in v.iter_mut().enumerate() {
        *x = (mix(round << 40 | i as u64) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    }
}

fn orthonormalise(v: &mut [f64], n: usize, mut beat: impl FnMut() -> Res) -> Res {
    for k in 0..n {
        let (head, rest) = v.split_at_mut((k + 1) * n);
        let q = &mut head[k * n..];
        let length = dot(q, q).sqrt();
        for x in q.iter_mut() {
            *x /= length;
        }
        for other in rest.chunks_exact_mut(n) {
            let part = dot(q, other);
            other.iter_mut().zip(&*q).for_each(|(o, q)| *o -= part * q);
        }
        beat()?;
    }
    Ok(())
}

/// Eight sums side by side, which the compiler keeps in vector registers: exporting those is part of the experiment.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// How far from orthonormal some of the basis is.
fn worst(v: &[f64], n: usize) -> f64 {
    let row = |i: usize| &v[i * n..(i + 1) * n];
    let step = (n / 16).max(1);
    let mut worst: f64 = 0.0;
    for i in (0..n).step_by(step) {
        for j in (0..n).step_by(step) {
            let wanted = if i == j { 1.0 } else { 0.0 };
            worst = worst.max((dot(row(i), row(j)) - wanted).abs());
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_an_orthonormal_basis_of_what_went_in() {
        let n = 37;
        let mut v = vec![0.0; n * n];
        fill(&mut v, 3);
        let first = v[..n].to_vec();
        assert!(worst(&v, n) > 0.1);
        orthonormalise(&mut v, n, || Ok(())).unwrap();
        assert!(worst(&v, n) < 1e-9, "{}", worst(&v, n));
        // The first vector keeps its direction.
        assert!((dot(&first, &v[..n]) - dot(&first, &first).sqrt()).abs() < 1e-9);
    }
}
