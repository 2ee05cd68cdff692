//! `/api/v1/log`: the log level, and changing it while stickyd runs.

use axum::Json;
use axum::http::StatusCode;

use super::api::{LogAnswer, LogOrder};
use super::layers::WholeBody;
use super::{ApiRefusal, refuse};
use crate::telemetry::{self, Level};

/// `GET /api/v1/log`: the log level and its source.
pub(crate) async fn show() -> Json<LogAnswer> {
    Json(describe(&telemetry::level()))
}

/// `PUT /api/v1/log` with `{"level": "debug"}`; `null` restores the level of `RUST_LOG` or the file.
pub(crate) async fn set(WholeBody(body): WholeBody) -> Result<Json<LogAnswer>, ApiRefusal> {
    const HELP: &str = "the body must be JSON such as {\"level\": \"debug\"}, or {\"level\": null} to follow the file";
    let wrong = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let LogOrder { level } = serde_json::from_slice(&body).map_err(|_| wrong(HELP.to_owned()))?;
    let level = telemetry::say_level(level.as_deref()).map_err(wrong)?;
    // Not `level`: a line in JSON has one already.
    tracing::info!(log_level = level.level, from = level.from, "log level changed");
    Ok(Json(describe(&level)))
}

fn describe(level: &Level) -> LogAnswer {
    LogAnswer { file: level.file.clone(), from: level.from.to_owned(), level: level.level.clone() }
}
