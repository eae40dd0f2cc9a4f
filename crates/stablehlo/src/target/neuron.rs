//! AWS Trainium and Inferentia through the Neuron plugin.
//!
//! Written from the error pages of its compiler (aws-neuron-sdk, `compiler/error-codes/`) and from what other clients of the plugin
//! learnt; it has not met the hardware. The rules are those of the oldest chips (trn1, inf2), which the newer ones also keep to.

use super::{Calls, Environment, RECORDED_OPS, Rules, Spread, Target, TopK};
use crate::record::Element;

pub(super) const TARGET: Target = Target {
    name: "neuron",
    dtype: Element::BF16,
    spread: Spread::Replicas,
    candidates: Some(256),
    // Rows of 32768 fail to compile from 16 candidates on, rows of 16384 do not.
    top_k: TopK::NeuronCall { widest: 16384 },
    platform_ffi: None,
    device_count: None,
    client: &[],
    flags: &[],
    environment: Environment::Neuron,
    rules: Rules {
        elements: &[
            Element::I1,
            Element::I8,
            Element::I32,
            Element::U32,
            Element::F8E5M2,
            Element::F16,
            Element::BF16,
            Element::F32,
        ],
        dot: FLOATS,
        folds_across_ranks: FLOATS,
        folding_scatter: FLOATS,
        ops: RECORDED_OPS,
        calls: Calls::Listed(CALLS),
        longest_sort: Some(16384),
        widest_constant_bits: 32,
        replica_groups: Some(16),
        guarded_integers: true,
        iota_indices_in_range: true,
    },
};

const FLOATS: &[Element] = &[Element::F8E5M2, Element::F16, Element::BF16, Element::F32];

/// Source: aws-neuron-sdk `compiler/error-codes/EVRF015.rst`, and EVRF036, EVRF043 for the last two. Calls that only training uses
/// are left out.
const CALLS: &[&str] = &[
    "AwsNeuronErf",
    "AwsNeuronGelu",
    "AwsNeuronGeluApprxTanh",
    "AwsNeuronSilu",
    "AwsNeuronRmsNorm",
    "AwsNeuronSoftmax",
    "AwsNeuronCollectiveMatmul",
    "AwsNeuronIntMatmult",
    "AwsNeuronArgMax",
    "AwsNeuronArgMin",
    "AwsNeuronTopK",
    "AwsNeuronCustomNativeKernel",
    "AwsNeuronCustomOp",
    "AwsNeuronDevicePrint",
    "AwsNeuronLNCShardingConstraint",
    "AwsNeuronTransferWithStaticRing",
    "QuantizeMX",
    "__op$block_scaled_dot",
];
