//! Inference modules: norms, attention, MLP, mixture of experts, the decoder assembled from a [`DecoderSpec`], the sampler.
//!
//! A module holds weight handles and sizes, nothing else; it is declared once and shared by all ranks and requests. Only `forward` has a
//! type parameter, the open step of a device ([`nxd_ops::Ops`]). What differs between models is a value of a spec, and one module branches
//! on it.
//!
//! *Does not know*: devices, ranks, checkpoints, batches, or the names of model families.
//!
//! Reading order: [`spec`], [`decoder`], [`attention`], [`feed_forward`], [`mlp`], [`moe`], [`norm`], [`sampler`].

pub mod attention;
pub mod decoder;
pub mod feed_forward;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod sampler;
pub mod spec;

pub use attention::Attention;
pub use decoder::{Decoder, DecoderLayer};
pub use feed_forward::FeedForward;
pub use mlp::Mlp;
pub use moe::Moe;
pub use norm::Norm;
pub use sampler::Sampler;
pub use spec::{
    AttentionSpec, DecoderSpec, FeedForwardSpec, HeadSpec, LayerSpec, MlpSpec, MoeSpec, NormPlacement, NormStyle,
    QkNorm, QkNormOver, SharedExpertSpec,
};
