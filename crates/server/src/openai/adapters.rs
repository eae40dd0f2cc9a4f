//! Adapters by the names that requests give for a model, and vLLM's routes that load and unload them at run time.

use super::fields::{Fields, Text};
use super::generate::blocking;
use crate::error::ApiError;
use crate::state::App;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use nxd_engine::AdapterId;
use nxd_engine::service::AdapterFailure;
use nxd_models::{Adapter, LoadMode};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const NAME: Text =
    Text { name: "lora_name", about: "The name that requests give for the model.", min_chars: 1, max_chars: 256 };
const PATH: Text = Text { name: "lora_path", about: "The adapter's folder.", min_chars: 1, max_chars: 4096 };

/// The adapters that are served.
#[derive(Default)]
pub(crate) struct Adapters {
    by_name: RwLock<BTreeMap<String, AdapterId>>,
    /// Held while one is loaded or unloaded, so that a name is never two.
    changing: tokio::sync::Mutex<()>,
}

impl Adapters {
    pub(crate) fn find(&self, name: &str) -> Option<AdapterId> {
        self.by_name.read().get(name).copied()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.read().keys().cloned().collect()
    }

    /// Serves `id` as `name` from now on.
    pub(crate) fn insert(&self, name: String, id: AdapterId) {
        self.by_name.write().insert(name, id);
    }
}

/// The routes that change them.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/load_lora_adapter", post(load)).route("/v1/unload_lora_adapter", post(unload))
}

async fn load(State(app): State<Arc<App>>, fields: Fields) -> Result<String, ApiError> {
    let handle = app.engine()?.clone();
    let (name, path) = (required(NAME, &fields)?, required(PATH, &fields)?);
    let _alone = app.adapters.changing.lock().await;
    if app.serves(&name) {
        return Err(ApiError::invalid(
            NAME.name,
            format!("`{name}` is served already; unload it, or take another name"),
        ));
    }
    let loaded = blocking(move || {
        let adapter = Adapter::open(Path::new(&path), handle.model(), LoadMode::default());
        let adapter = adapter.map_err(|error| ApiError::invalid(PATH.name, error.to_string()))?;
        handle.load_adapter(Arc::clone(adapter.parts())).map_err(ApiError::from)
    });
    app.adapters.insert(name.clone(), loaded.await?);
    tracing::info!(%name, "adapter loaded");
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

async fn unload(State(app): State<Arc<App>>, fields: Fields) -> Result<String, ApiError> {
    let handle = app.engine()?.clone();
    let name = required(NAME, &fields)?;
    let _alone = app.adapters.changing.lock().await;
    let removed = app.adapters.by_name.write().remove(&name);
    let id = removed.ok_or_else(|| ApiError {
        param: Some(NAME.name.to_owned()),
        ..ApiError::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "adapter_not_found",
            format!("there is no adapter `{name}`"),
        )
    })?;
    blocking(move || handle.unload_adapter(id).map_err(ApiError::from)).await?;
    tracing::info!(%name, "adapter unloaded");
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}

fn required(field: Text, fields: &Fields) -> Result<String, ApiError> {
    let missing = || ApiError::invalid(field.name, format!("`{}` is missing; a text is expected", field.name));
    field.read(fields)?.ok_or_else(missing)
}

impl From<AdapterFailure> for ApiError {
    fn from(failure: AdapterFailure) -> Self {
        let message = nxd_engine::error::with_sources(&failure);
        match failure {
            AdapterFailure::Refused(refusal) => refusal.into(),
            AdapterFailure::Engine(_) => ApiError::invalid(PATH.name, message),
            _ => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "adapter_timeout", message),
        }
    }
}
