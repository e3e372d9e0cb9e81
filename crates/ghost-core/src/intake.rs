//! Reading a ghost: from a stream as it comes, from a file that can be read at any offset, or from memory that holds it whole.

use crate::abreast;
use crate::error::{Cause, KindError};
use crate::model::Model;
use ghost_image::record as rec;
use ghost_image::{
    Header, ImageReader, ImageWriter, PlacedData, PlacedReader, ReadAt, Room, Section, SliceData, SliceReader,
    Unchecked,
};
use ghost_sys::huge::Huge;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{self, TrySendError};

/// Bytes from which on threads are made.
const WORTH_THREADS: u64 = 4 << 20;

/// More threads than that have nothing to do beside a disk.
const HELPERS_OF_A_DISK: usize = 4;

/// A ghost being read.
pub struct Intake<'g> {
    source: Source<'g>,
    /// The first page section, met while the records were read.
    ahead: Option<(rec::PageHead, Data<'g>)>,
    /// All page sections, once they were read before their time.
    spooled: VecDeque<(rec::PageHead, Data<'g>)>,
    ended: bool,
}

enum Source<'g> {
    Stream(Box<ImageReader<Box<dyn Read + Send + 'g>>>),
    /// Its page data is not checked by the reader: whoever uses it does.
    File(Box<PlacedReader<'g>>),
    /// The same.
    Whole(Box<SliceReader<'g>>),
    /// Read to its end and let go, so that a peer who waits for that learns of it.
    Spent(Box<Header>),
}

/// The bytes of a page section.
enum Data<'g> {
    /// At the front of a buffer, to be checked.
    Read(Memory, Unchecked),
    /// In a file, to be read and checked.
    There(PlacedData<'g>),
    /// The same, in a buffer already, since it was to be read in order.
    Fetched(Memory, PlacedData<'g>),
    /// In memory, to be checked.
    Here(SliceData<'g>),
    /// Kept, checked.
    Kept(Vec<u8>),
}

/// Memory for the bytes of a section, made when there are some.
#[derive(Default)]
struct Memory(Option<Huge>);

impl Memory {
    /// All of it.
    fn all(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Room for Memory {
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.all().len() < len {
            // What was in it is not wanted any more. Where there is no memory, a vector fails as all others do.
            self.0 = None;
            self.0 = Some(Huge::new(len).expect("memory for a section"));
        }
        &mut self.0.as_deref_mut().unwrap_or_default()[..len]
    }
}

impl Data<'_> {
    /// The bytes, checked; a buffer to read them into, should that be needed.
    fn bytes<'b>(&'b self, buffer: &'b mut Memory) -> Result<&'b [u8], KindError> {
        match self {
            Self::Read(bytes, unchecked) => unchecked.check(bytes.all()).map_err(reading),
            Self::There(data) => data.read(buffer).map_err(reading),
            Self::Fetched(bytes, data) => data.check(bytes.all()).map_err(reading),
            Self::Here(data) => data.check().map(|()| data.bytes).map_err(reading),
            Self::Kept(bytes) => Ok(bytes),
        }
    }
    /// Its buffer, to be used again.
    fn spent(self) -> Option<Memory> {
        match self {
            Self::Read(bytes, _) | Self::Fetched(bytes, _) => Some(bytes),
            Self::There(_) | Self::Here(_) | Self::Kept(_) => None,
        }
    }
}

impl<'g> Intake<'g> {
    /// Reads the header of a ghost that comes as a stream.
    pub fn stream(source: Box<dyn Read + Send + 'g>) -> Result<Self, KindError> {
        Ok(Self::new(Source::Stream(Box::new(ImageReader::open(source).map_err(reading)?))))
    }
    /// Reads the header of a ghost that can be read at any offset.
    pub fn file(source: &'g dyn ReadAt) -> Result<Self, KindError> {
        Ok(Self::new(Source::File(Box::new(PlacedReader::open(source).map_err(reading)?))))
    }
    /// Reads the header of a ghost that is in memory.
    pub fn whole(ghost: &'g [u8]) -> Result<Self, KindError> {
        let reader = SliceReader::open(ghost).map_err(reading)?.defer_data_checks();
        Ok(Self::new(Source::Whole(Box::new(reader))))
    }
    fn new(source: Source<'g>) -> Self {
        Self { source, ahead: None, spooled: VecDeque::new(), ended: false }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        match &self.source {
            Source::Stream(reader) => reader.header(),
            Source::File(reader) => reader.header(),
            Source::Whole(reader) => reader.header(),
            Source::Spent(header) => header,
        }
    }

    /// Reads all records, which stand before the pages.
    pub fn records(&mut self) -> Result<Model, KindError> {
        let mut model = Model::default();
        loop {
            let step =
                step(&mut self.source, Memory::default, |record| model.take(record.tag, record).map_err(reading))?;
            match step {
                Step::Record => {}
                Step::Pages(head, data) => {
                    self.ahead = Some((head, data));
                    break;
                }
                Step::End => {
                    self.ended = true;
                    break;
                }
            }
        }
        Ok(model)
    }

    /// The next page section; `spare` gives a buffer for what comes as a stream. After `None` the ghost is known to be whole,
    /// but for page data that is to be checked by who uses it.
    fn next(&mut self, spare: impl FnOnce() -> Memory) -> Result<Option<(rec::PageHead, Data<'g>)>, KindError> {
        if let Some(section) = self.spooled.pop_front().or_else(|| self.ahead.take()) {
            return Ok(Some(section));
        }
        if self.ended {
            return Ok(None);
        }
        let late = |record: &ghost_image::Record<'_>| {
            let why = format!("a {} record stands after the pages", record.tag.name());
            Err(KindError::new("reading the ghost", Cause::Conflict(why)))
        };
        match step(&mut self.source, spare, late)? {
            Step::Pages(head, data) => Ok(Some((head, data))),
            Step::Record | Step::End => {
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// Calls `place` for every page section to the end. Only when this returns is the ghost known to be whole.
    pub fn pages(
        &mut self,
        mut place: impl FnMut(&rec::PageHead, &[u8]) -> Result<(), KindError>,
    ) -> Result<(), KindError> {
        let (mut spare, mut buffer) = (Memory::default(), Memory::default());
        while let Some((head, data)) = self.next(|| std::mem::take(&mut spare))? {
            place(&head, data.bytes(&mut buffer)?)?;
            spare = data.spent().unwrap_or_default();
        }
        Ok(())
    }

    /// The same on several threads at once, where `expected` bytes are worth it; no two sections with pages in common meet.
    ///
    /// This thread takes the sections out of the ghost. Those that come faster than others can place them it places itself, unless
    /// they come from a disk, which is to have work all the time.
    pub fn pages_at_once(
        &mut self,
        expected: u64,
        place: impl Fn(&rec::PageHead, &[u8]) -> Result<(), KindError> + Sync,
    ) -> Result<(), KindError> {
        let in_order = matches!(&self.source, Source::File(reader) if reader.in_order());
        let others = match (expected < WORTH_THREADS, in_order) {
            (true, _) => 0,
            (false, true) => abreast::threads().min(HELPERS_OF_A_DISK),
            (false, false) => abreast::threads() - 1,
        };
        if others == 0 {
            return self.pages(place);
        }
        let mut next = None;
        loop {
            let failed = Mutex::new(None);
            let over = || failed.lock().expect("no worker panics").is_some();
            let (give, take) = mpsc::sync_channel::<(rec::PageHead, Data<'g>)>(others);
            let (give_back, spare) = mpsc::channel::<Memory>();
            let take = Mutex::new(take);
            let work = |(head, data): (rec::PageHead, Data<'g>), buffer: &mut Memory| {
                if let Err(e) = data.bytes(buffer).and_then(|bytes| place(&head, bytes)) {
                    failed.lock().expect("no worker panics").get_or_insert(e);
                }
                data.spent()
            };
            let help = |give_back: mpsc::Sender<Memory>| {
                let mut buffer = Memory::default();
                loop {
                    // The guard ends with the statement: others take the next section while this one is placed.
                    let got = take.lock().expect("no worker panics").recv();
                    let Ok(section) = got else { return };
                    if !over()
                        && let Some(bytes) = work(section, &mut buffer)
                    {
                        let _ = give_back.send(bytes);
                    }
                }
            };
            std::thread::scope(|scope| {
                let mut helped = false;
                for _ in 0..others {
                    let (help, give_back) = (&help, give_back.clone());
                    // Where the host has no room for more threads, this one does all.
                    if std::thread::Builder::new().spawn_scoped(scope, move || help(give_back)).is_err() {
                        break;
                    }
                    helped = true;
                }
                let give = Some(give).filter(|_| helped);
                let (mut met, mut own, mut buffer) = (Met::default(), Memory::default(), Memory::default());
                while !over() {
                    let section = match next.take() {
                        Some(section) => Some(section),
                        None => self.next(|| spare.try_recv().unwrap_or_else(|_| std::mem::take(&mut own)))?,
                    };
                    let Some(section) = section else { break };
                    if met.again(&section.0) {
                        // Only when all before are placed.
                        next = Some(section);
                        break;
                    }
                    let kept = match &give {
                        Some(give) if in_order => give.send(section).err().map(|e| e.0),
                        Some(give) => match give.try_send(section) {
                            Ok(()) => None,
                            Err(TrySendError::Full(section) | TrySendError::Disconnected(section)) => Some(section),
                        },
                        None => Some(section),
                    };
                    if let Some(section) = kept {
                        own = work(section, &mut buffer).unwrap_or_default();
                    }
                }
                Ok(())
            })?;
            if let Some(e) = failed.into_inner().expect("no worker panics") {
                return Err(e);
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads the rest of a stream and keeps the whole ghost, byte for byte as it is defined, in `into`.
    ///
    /// The ghost is written anew from its sections: the copy is as good as the original and is checked like one.
    pub fn keep(&mut self, into: &mut Vec<u8>) -> Result<(), KindError> {
        let mut header = self.header().clone();
        header.parent = None;
        let model = self.records()?;
        let mut out = ImageWriter::new(into, &header).map_err(reading)?;
        model.write(&mut out).map_err(reading)?;
        self.pages(|head, bytes| out.pages(head, &[bytes]).map(drop).map_err(reading))?;
        out.finish().map_err(reading)?;
        Ok(())
    }

    /// Reads and checks the rest now: for a source that will only end once everything has been read, and before something is
    /// given up for this ghost. A stream is kept in memory; of a ghost that lies somewhere already nothing is copied.
    pub fn spool(&mut self) -> Result<(), KindError> {
        let mut all = VecDeque::new();
        let (mut spare, mut buffer) = (Memory::default(), Memory::default());
        while let Some((head, data)) = self.next(|| std::mem::take(&mut spare))? {
            let bytes = data.bytes(&mut buffer)?;
            let kept = match &data {
                Data::Read(..) => Data::Kept(bytes.to_vec()),
                Data::Fetched(_, there) | Data::There(there) => Data::There(*there),
                Data::Here(here) => Data::Here(*here),
                Data::Kept(_) => data,
            };
            all.push_back((head, kept));
        }
        self.spooled = all;
        self.source = Source::Spent(Box::new(self.header().clone()));
        Ok(())
    }
}

/// What the next section of a source was.
enum Step<'g> {
    Record,
    Pages(rec::PageHead, Data<'g>),
    End,
}

/// Reads one section: records go to `record`, pages come back.
fn step<'g>(
    source: &mut Source<'g>,
    spare: impl FnOnce() -> Memory,
    record: impl FnOnce(&ghost_image::Record<'_>) -> Result<(), KindError>,
) -> Result<Step<'g>, KindError> {
    let pages = match source {
        Source::Stream(reader) => match reader.next().map_err(reading)? {
            Some(Section::Record(found)) => return record(&found).map(|()| Step::Record),
            Some(Section::Pages(pages)) => {
                let mut bytes = spare();
                let unchecked = pages.data.read_unchecked(&mut bytes).map_err(reading)?;
                Some((pages.head, Data::Read(bytes, unchecked)))
            }
            None => None,
        },
        Source::File(reader) => {
            let mut bytes = reader.in_order().then(spare);
            match reader.next_with(bytes.as_mut().map(|b| b as &mut dyn Room)).map_err(reading)? {
                Some(Section::Record(found)) => return record(&found).map(|()| Step::Record),
                Some(Section::Pages(pages)) => {
                    let data = bytes.map_or(Data::There(pages.data), |bytes| Data::Fetched(bytes, pages.data));
                    Some((pages.head, data))
                }
                None => None,
            }
        }
        Source::Whole(reader) => match reader.next().map_err(reading)? {
            Some(Section::Record(found)) => return record(&found).map(|()| Step::Record),
            Some(Section::Pages(pages)) => Some((pages.head, Data::Here(pages.data))),
            None => None,
        },
        Source::Spent(_) => None,
    };
    Ok(pages.map_or(Step::End, |(head, data)| Step::Pages(head, data)))
}

/// Page ranges that are being placed: of each owner, by their first address, where they end.
#[derive(Default)]
struct Met {
    ranges: HashMap<(u32, u32), BTreeMap<u64, u64>>,
    count: usize,
    /// A section has had pages of several owners.
    is_shared: bool,
}

impl Met {
    /// How many ranges are remembered at most, whatever a ghost claims.
    const MOST: usize = 1 << 16;

    /// Whether pages of this section may have been met; if not, they are from now on. Ranges that touch become one.
    fn again(&mut self, head: &rec::PageHead) -> bool {
        let is_first = self.count == 0;
        let owner = if head.owner == ghost_image::pages::SEVERAL { 0 } else { head.owner };
        self.is_shared |= !head.shares.is_empty();
        // Where address spaces share pages, those of one are in sections of others, too, and between its own.
        let mut again = false;
        if self.is_shared {
            for run in &head.runs {
                again |= self.ranges_again((owner, head.id), std::slice::from_ref(run));
            }
        } else {
            again = self.ranges_again((owner, head.id), &head.runs);
        }
        for share in &head.shares {
            for run in head.runs.iter().skip(share.first as usize).take(share.count as usize) {
                for id in &share.ids {
                    again |= self.ranges_again((owner, *id), std::slice::from_ref(run));
                }
            }
        }
        // Whatever a section has twice, one thread places it.
        again && !is_first
    }

    /// The same of runs of one owner, from the first to the last.
    fn ranges_again(&mut self, owner: (u32, u32), runs: &[rec::PageRun]) -> bool {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return false };
        let (mut first, mut end) =
            (first.start, last.start.saturating_add(last.pages.saturating_mul(ghost_image::PAGE)));
        let ranges = self.ranges.entry(owner).or_default();
        let before = ranges.range(..=first).next_back().map(|(s, e)| (*s, *e));
        let after = ranges.range(first..).next().map(|(s, e)| (*s, *e));
        if before.is_some_and(|b| b.1 > first) || after.is_some_and(|a| a.0 < end) || self.count >= Self::MOST {
            return true;
        }
        if let Some(before) = before.filter(|b| b.1 == first) {
            ranges.remove(&before.0);
            self.count -= 1;
            first = before.0;
        }
        if let Some(after) = after.filter(|a| a.0 == end) {
            ranges.remove(&after.0);
            self.count -= 1;
            end = after.1;
        }
        ranges.insert(first, end);
        self.count += 1;
        false
    }
}

fn reading(e: ghost_image::Error) -> KindError {
    KindError::new("reading the ghost", e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u32, start: u64, pages: u64) -> rec::PageHead {
        let run = rec::PageRun { start: start << 12, pages, ..rec::PageRun::default() };
        rec::PageHead { owner: 0, id, runs: vec![run], ..rec::PageHead::default() }
    }

    #[test]
    fn pages_are_met_again_only_where_they_were_met() {
        let mut met = Met::default();
        for (start, pages) in [(100, 10), (120, 5), (110, 10), (90, 10), (300, 1)] {
            assert!(!met.again(&section(1, start, pages)), "{start}");
        }
        assert_eq!(met.count, 2, "{:?}", met.ranges);
        for (start, pages) in [(90, 1), (80, 11), (124, 1), (124, 9), (0, 1000), (300, 1), (299, 2)] {
            assert!(met.again(&section(1, start, pages)), "{start}");
            assert!(!Met::default().again(&section(1, start, pages)));
        }
        assert!(!met.again(&section(2, 100, 10)), "of another owner");
        let share = rec::PageShare { first: 0, count: 1, ids: vec![3, 4, 4] };
        let shared = rec::PageHead { owner: 4, shares: vec![share], ..section(5, 200, 10) };
        assert!(!Met::default().again(&shared), "nothing was met before");
        let mut met = Met::default();
        assert!(!met.again(&section(3, 100, 10)) && !met.again(&section(6, 1, 1)));
        assert!(met.again(&shared) && met.again(&section(4, 205, 1)) && met.again(&section(5, 209, 9)));
        assert!(!met.again(&section(4, 210, 1)), "beside it");
        assert!(!met.again(&section(1, 125, 175)), "right between");
    }
}
