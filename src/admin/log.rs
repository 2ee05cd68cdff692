//! `/api/v1/log`: the log level, and changing it while stickyd runs.

use axum::Json;
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{ApiRefusal, refuse};
use crate::telemetry::{self, Level};

/// `GET /api/v1/log`: the log level and its source.
pub(crate) async fn show() -> Json<Value> {
    Json(describe(&telemetry::level()))
}

/// `PUT /api/v1/log` with `{"level": "debug"}`; `null` restores the level of `RUST_LOG` or the file.
pub(crate) async fn set(body: Bytes) -> Result<Json<Value>, ApiRefusal> {
    const HELP: &str = "the body must be JSON such as {\"level\": \"debug\"}, or {\"level\": null} to follow the file";
    let wrong = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let said: Value = serde_json::from_slice(&body).map_err(|_| wrong(HELP.to_owned()))?;
    let level = match said.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get("level")) {
        Some(Value::String(level)) => Some(level.as_str()),
        Some(Value::Null) => None,
        _ => return Err(wrong(HELP.to_owned())),
    };
    let level = telemetry::say_level(level).map_err(wrong)?;
    tracing::info!(level = level.level, from = level.from, "log level changed");
    Ok(Json(describe(&level)))
}

fn describe(level: &Level) -> Value {
    json!({ "level": level.level, "from": level.from, "file": level.file })
}
