//! Directories that are copied, and put back as they were.
use std::fs;
use std::path::Path;

/// Copies a directory: regular files with mode, owner and times, and directories; nothing else.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::create_dir_all(to).map_err(text)?;
    same_owner_and_mode(from, to)?;
    for entry in fs::read_dir(from).map_err(text)? {
        let entry = entry.map_err(text)?;
        let (path, kind) = (to.join(entry.file_name()), entry.file_type().map_err(text)?);
        if kind.is_dir() {
            copy(&entry.path(), &path)?;
        } else if kind.is_file() {
            put_back_file(&entry.path(), &path)?;
        }
    }
    Ok(())
}

/// Makes the files of a directory what they were, in their old inodes where these are still there.
pub(crate) fn put_back(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    for entry in fs::read_dir(to).map_err(text)? {
        let entry = entry.map_err(text)?;
        let kind = entry.file_type().map_err(text)?;
        let there = from.join(entry.file_name()).exists();
        match (kind.is_dir(), there) {
            (true, true) => put_back(&from.join(entry.file_name()), &entry.path())?,
            (true, false) => fs::remove_dir_all(entry.path()).map_err(text)?,
            (false, true) => {}
            (false, false) => fs::remove_file(entry.path()).map_err(text)?,
        }
    }
    copy(from, to)
}

fn put_back_file(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    let bytes = fs::read(from).map_err(text)?;
    let meta = fs::metadata(from).map_err(text)?;
    fs::write(to, bytes).map_err(text)?;
    same_owner_and_mode(from, to)?;
    let times = fs::FileTimes::new().set_modified(meta.modified().map_err(text)?);
    fs::File::options().write(true).open(to).and_then(|f| f.set_times(times)).map_err(text)
}

fn same_owner_and_mode(from: &Path, to: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    let meta = fs::metadata(from).map_err(text)?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).map_err(text)?;
    fs::set_permissions(to, meta.permissions()).map_err(text)
}
