//! What a client is told that something is wrong, in OpenAI's error object.

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    api::FieldError,
    chat::ChatError,
    generate::GenerateError,
    sample::{ConstraintError, OptionError, SampleError},
};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The status.
    pub status: StatusCode,
    /// OpenAI's `code`: a word for programs.
    pub code: &'static str,
    /// The field that it is about.
    pub param: Option<String>,
    /// A sentence for people. It may hold text of the request.
    pub message: String,
    /// After how many seconds another try makes sense.
    pub retry_after: Option<u64>,
}

impl Failure {
    /// A failure that is about no field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, param: None, message: message.into(), retry_after: None }
    }

    /// A request that cannot be answered as it is.
    pub fn invalid(param: &str, message: impl Into<String>) -> Failure {
        Failure { param: Some(param.to_owned()), ..Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// What this program got wrong, or its device.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The request's time is over.
    pub fn late() -> Failure {
        let message = "the request took longer than this server allows; ask for fewer tokens (max_tokens)";
        Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    }

    /// The server takes no new work.
    pub fn draining() -> Failure {
        let message = "the server is being stopped and takes no new requests; ask another, or ask again later";
        Failure { retry_after: Some(1), ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message) }
    }

    /// The server ended before the answer.
    pub fn stopped() -> Failure {
        let message = "the server was stopped before the answer was whole; ask again";
        Failure { retry_after: Some(1), ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message) }
    }

    /// OpenAI's `type`, which Anthropic's interface has too.
    pub fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What is inside `error`.
    pub fn object(&self) -> Value {
        json!({ "message": self.message, "type": self.kind(), "param": self.param, "code": self.code })
    }

    /// The body. Anthropic's clients look for the outer `type`, OpenAI's for `error` alone.
    pub fn body(&self) -> Value {
        json!({ "type": "error", "error": self.object() })
    }

    /// The same about another field, or what lies in it, where it was about that one.
    #[must_use]
    pub fn renamed(mut self, from: &str, to: &str) -> Failure {
        let inside = self.param.as_deref().and_then(|param| param.strip_prefix(from));
        if let Some(inside) = inside.filter(|inside| inside.is_empty() || inside.starts_with(['.', '['])) {
            self.param = Some(format!("{to}{inside}"));
            self.message = self.message.replacen(from, to, 1);
        }
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // For the log, which must not have the message.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<FieldError> for Failure {
    fn from(error: FieldError) -> Failure {
        Failure::invalid(&error.field, error.to_string())
    }
}

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Failure {
        match &error {
            OptionError::Value { flag, value, expected } => {
                let field = match flag.trim_start_matches('-').replace('-', "_") {
                    name if name == "temp" => "temperature".to_owned(),
                    name => name,
                };
                Failure::invalid(&field, format!("{field}: found {value}, expected {expected}"))
            }
            OptionError::Metadata { .. } => Failure::internal(error.to_string()),
        }
    }
}

impl From<ConstraintError> for Failure {
    fn from(error: ConstraintError) -> Failure {
        let field = match &error {
            ConstraintError::Source { file, .. } | ConstraintError::Step { file, .. } => file.as_str(),
            ConstraintError::Vocabulary(_) => "response_format",
        };
        Failure::invalid(field, error.to_string())
    }
}

impl From<ChatError> for Failure {
    fn from(error: ChatError) -> Failure {
        Failure::invalid("messages", error.to_string())
    }
}

impl From<GenerateError> for Failure {
    fn from(error: GenerateError) -> Failure {
        match error {
            GenerateError::Constraint(error) => error.into(),
            GenerateError::Sample { source: SampleError::NothingToDraw { .. }, .. } => {
                Failure::invalid("logit_bias", error.to_string())
            }
            error => Failure::internal(error.to_string()),
        }
    }
}
