//! How the command ends when it does not end well: 1 failed, 2 usage, 3 refused.

use std::process::ExitCode;

/// Why the command failed.
pub enum Fail {
    /// An action.
    Ghost(ghost::Error),
    /// A resource, outside of an action.
    Resource(ghost::resource::Error),
    /// The words do not fit together.
    Usage(String),
    /// Anything else, in words.
    Words(String),
}

impl From<ghost::Error> for Fail {
    fn from(e: ghost::Error) -> Self {
        Self::Ghost(e)
    }
}
impl From<ghost::resource::Error> for Fail {
    fn from(e: ghost::resource::Error) -> Self {
        Self::Resource(e)
    }
}

impl Fail {
    /// Says it on stderr.
    pub fn report(&self, json: bool) -> ExitCode {
        let (code, text) = match self {
            Self::Ghost(e) => (if e.is_refusal() { 3 } else { 1 }, e.to_string()),
            Self::Resource(e) => {
                let advice = e.advice();
                let try_this = if advice.is_empty() { String::new() } else { format!("\n  try:   {advice}") };
                (1, format!("{e}{try_this}\n  state: {}", e.aftermath()))
            }
            Self::Usage(words) => (2, words.clone()),
            Self::Words(words) => (1, words.clone()),
        };
        if json {
            let refused: Vec<_> = match self {
                Self::Ghost(ghost::Error::Refused { blockers, .. }) => blockers
                    .iter()
                    .map(|b| {
                        serde_json::json!({"pid": b.pid, "comm": b.comm, "kind": b.kind, "subject": b.subject,
                            "why": b.why, "advice": b.advice})
                    })
                    .collect(),
                _ => Vec::new(),
            };
            crate::talk!("{}", serde_json::json!({"error": text, "exit": code, "blockers": refused}));
        } else {
            crate::talk!("ghost: {text}");
        }
        ExitCode::from(code)
    }
}
