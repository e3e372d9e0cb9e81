//! A batch as the bytes that the executor walks.
//!
//! In the scratch area, in this order: the head (done word, address of the record that failed), the results of all calls, the
//! records, the data. All addresses in records are absolute, so a program is made for one place.

use super::{Arg, Batch, Call, Memory, Outcome, RemoteAddr, RemoteError};
use crate::arch::{RECORD_END, RECORD_LEN, RECORD_RESULTS, RECORD_STORE};
use crate::{Errno, Result as SysResult};

const HEAD: usize = 64;

/// Where the parts of a batch go, in bytes from the start of the scratch area.
#[derive(Debug)]
pub(super) struct Program {
    base: u64,
    records_at: usize,
    data_at: usize,
    /// Call index of each record before the epilogue.
    call_of_record: Vec<usize>,
    bytes: Vec<u8>,
}

/// Bytes that a batch takes in the scratch area.
pub(super) fn size(batch: &Batch) -> usize {
    let children: usize = batch.children.iter().map(|c| c.1.len()).sum();
    let records =
        batch.calls.len() + batch.epilogue.len() + batch.stores.len() + children + 2 * batch.children.len() + 2;
    let results = batch.calls.len() + batch.epilogue.len() + children + 1;
    (HEAD + results * 8 + records * RECORD_LEN).next_multiple_of(64) + batch.data.len()
}

impl Program {
    /// Lays a batch out for the scratch area at `base`.
    pub(super) fn new(batch: &Batch, base: u64) -> Self {
        let total = size(batch);
        let data_at = total - batch.data.len();
        let children: usize = batch.children.iter().map(|c| c.1.len()).sum();
        let results = batch.calls.len() + batch.epilogue.len() + children + 1;
        let records_at = HEAD + results * 8;
        let mut p = Self { base, records_at, data_at, call_of_record: Vec::new(), bytes: vec![0; total] };
        // The result of a call that was never made is -1: closing or unmapping it in the epilogue does nothing.
        p.bytes[HEAD..records_at].fill(0xff);
        p.bytes[data_at..].copy_from_slice(&batch.data);
        for &(at, to) in &batch.pointers {
            let address = base + (data_at as u64) + u64::from(to);
            p.bytes[data_at + at as usize..][..8].copy_from_slice(&address.to_ne_bytes());
        }

        let main = batch.calls.len() + batch.stores.len();
        let child_start = |n: usize| main + batch.epilogue.len() + 2 + n;
        let on_error = p.record_addr(main);
        let mut at = 0;
        let mut child_record = child_start(0);
        let mut child_results = batch.calls.len() + batch.epilogue.len() + 1;
        for (index, call) in batch.calls.iter().enumerate() {
            let child = batch.children.iter().find(|c| c.0 as usize == index).map(|c| &c.1);
            let on_zero = if let Some(calls) = child {
                let first = p.record_addr(child_record);
                p.put(child_record, RECORD_RESULTS, &[Arg::Value(p.result_addr(child_results))], 0, 0);
                child_results += calls.len();
                for c in calls {
                    child_record += 1;
                    p.put(child_record, c.nr, &c.args, 0, 0);
                }
                // A child that comes to the end of its calls must not go on as if it were the program.
                p.put(child_record + 1, libc::SYS_exit_group, &[Arg::Value(0)], 0, 0);
                child_record += 2;
                first
            } else {
                0
            };
            p.put(at, call.nr, &call.args, if call.may_fail { 0 } else { on_error }, on_zero);
            p.call_of_record.push(index);
            at += 1;
            for (slot, offset) in batch.stores.iter().filter(|s| s.0.0 as usize == index) {
                let target = Arg::Value(p.base + p.data_at as u64 + *offset as u64);
                p.put(at, RECORD_STORE, &[Arg::Result(*slot), target], 0, 0);
                p.call_of_record.push(index);
                at += 1;
            }
        }
        // Whatever happened before, results of the epilogue do not overwrite those of calls that were not made.
        p.put(at, RECORD_RESULTS, &[Arg::Value(p.result_addr(batch.calls.len()))], 0, 0);
        at += 1;
        for Call { nr, args, .. } in &batch.epilogue {
            p.put(at, *nr, args, 0, 0);
            at += 1;
        }
        p.put(at, RECORD_END, &[], 0, 0);
        p
    }

    fn record_addr(&self, index: usize) -> u64 {
        self.base + (self.records_at + index * RECORD_LEN) as u64
    }

    fn result_addr(&self, index: usize) -> u64 {
        self.base + (HEAD + index * 8) as u64
    }

    fn put(&mut self, index: usize, nr: i64, args: &[Arg], on_error: u64, on_zero: u64) {
        let mut words = [0_u64; 10];
        words[0] = nr as u64;
        for (i, arg) in args.iter().enumerate() {
            words[1 + i] = match arg {
                Arg::Value(v) => *v,
                Arg::Data(d) => self.base + self.data_at as u64 + d.offset as u64,
                Arg::Result(slot) => {
                    words[7] |= 1 << i;
                    self.result_addr(slot.0 as usize)
                }
            };
        }
        words[8] = on_error;
        words[9] = on_zero;
        let start = self.records_at + index * RECORD_LEN;
        for (i, word) in words.iter().enumerate() {
            self.bytes[start + i * 8..start + i * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// Where it was made for.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Puts it where it was made for.
    pub(super) fn write(&self, memory: &Memory) -> SysResult<()> {
        memory.write(RemoteAddr(self.base), &self.bytes)
    }

    /// Its bytes, to be put at [`Program::base`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Address of the first record.
    pub(super) fn first_record(&self) -> u64 {
        self.record_addr(0)
    }

    /// Address of the first result.
    pub(super) fn first_result(&self) -> u64 {
        self.result_addr(0)
    }

    /// Whether it has run to its end.
    pub(super) fn is_done(&self, memory: &Memory) -> SysResult<bool> {
        Ok(memory.read_u64(RemoteAddr(self.base))? == 1)
    }

    /// What its calls returned, whether or not they were all made; -1 for those that were not.
    pub(super) fn results(&self, batch: &Batch, memory: &Memory) -> Result<Vec<i64>, RemoteError> {
        let mut bytes = vec![0; batch.calls.len() * 8];
        memory
            .read(RemoteAddr(self.first_result()), &mut bytes)
            .map_err(|errno| RemoteError::Step { step: "reading the results of a batch", errno })?;
        Ok(bytes.chunks_exact(8).map(|c| i64::from_ne_bytes(c.try_into().expect("eight bytes"))).collect())
    }

    /// What came of it.
    pub(super) fn outcome(&self, batch: &Batch, memory: &Memory) -> Result<Outcome, RemoteError> {
        let parts = self.answer(batch);
        let mut bytes = vec![0; parts[0].1 + parts[1].1];
        memory
            .read_ranges(&parts, &mut bytes)
            .map_err(|errno| RemoteError::Step { step: "reading the results of a batch", errno })?;
        self.outcome_of(batch, &bytes)
    }

    /// Where the bytes are that tell what came of it.
    pub(super) fn answer(&self, batch: &Batch) -> [(RemoteAddr, usize); 2] {
        let data = RemoteAddr(self.base + self.data_at as u64);
        [(RemoteAddr(self.base), HEAD + batch.calls.len() * 8), (data, batch.data.len())]
    }

    /// What came of it, by these bytes.
    pub(super) fn outcome_of(&self, batch: &Batch, answer: &[u8]) -> Result<Outcome, RemoteError> {
        let step = |errno| RemoteError::Step { step: "reading the results of a batch", errno };
        let (head, data) = answer.split_at(HEAD + batch.calls.len() * 8);
        let data = data.to_vec();
        let words: Vec<u64> =
            head.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().expect("eight bytes"))).collect();
        let results: Vec<i64> = words[HEAD / 8..].iter().map(|w| *w as i64).collect();
        if words[0] != 1 {
            return Err(step(Errno(libc::EPROTO)));
        }
        if words[1] == 0 {
            return Ok(Outcome { results, data });
        }
        let record = (words[1].wrapping_sub(self.record_addr(0)) / RECORD_LEN as u64) as usize;
        let index = *self.call_of_record.get(record).ok_or_else(|| step(Errno(libc::EPROTO)))?;
        let errno = Errno(-results[index] as i32);
        Err(RemoteError::Call { index, label: batch.calls[index].label.to_string(), errno })
    }
}
