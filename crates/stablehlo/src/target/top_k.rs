//! The largest elements of rows, as each target wants to be asked for them.

use super::Target;
use crate::record::{CallConfig, CustomCall, Element, Recorder, Type, Value};

/// How the largest elements are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// `chlo.top_k`.
    Chlo,
    /// The call `AwsNeuronTopK`. Neuron's compiler makes one of a sort by itself too, but with as many candidates as the row is
    /// long, and then refuses it (aws-neuron-sdk issue 1339).
    NeuronCall {
        /// The longest row that a call may be given; longer ones are cut, and the best of the pieces compared again.
        widest: usize,
    },
}

/// The `k` largest of each row of `x` `[rows, N]`, largest first and of equals the first, and their places as i32: both `[rows, k]`.
pub fn top_k(rec: &mut Recorder, target: &Target, x: &Value, k: usize) -> (Value, Value) {
    match target.top_k {
        TopK::Chlo => rec.top_k(x, k),
        TopK::NeuronCall { widest } => in_pieces(rec, x, k, widest),
    }
}

fn in_pieces(rec: &mut Recorder, x: &Value, k: usize, widest: usize) -> (Value, Value) {
    assert_eq!(x.dims().len(), 2, "top-k of {}: only rows of a matrix are compared", x.ty());
    let (rows, columns) = (x.dims()[0], x.dims()[1]);
    if columns <= widest {
        return neuron_call(rec, x, k);
    }
    assert!(2 * k <= widest, "the best {k} of pieces of {widest} are not fewer than the pieces");
    // An element of the best `k` is among the best `k` of its piece. Pieces stand in order, so of equals the first still wins.
    let mut found: Vec<(Value, Value)> = Vec::new();
    for start in (0..columns).step_by(widest) {
        let end = columns.min(start + widest);
        let piece = rec.slice(x, 1, start..end);
        let (values, places) = neuron_call(rec, &piece, k.min(end - start));
        let offset = rec.splat(start as f64, places.dims(), Element::I32);
        found.push((values, rec.add(&places, &offset)));
    }
    let values: Vec<&Value> = found.iter().map(|(values, _)| values).collect();
    let places: Vec<&Value> = found.iter().map(|(_, places)| places).collect();
    let (values, places) = (rec.concat(&values, 1), rec.concat(&places, 1));
    let width = values.dims()[1];
    let (values, chosen) = in_pieces(rec, &values, k, widest);
    // What was chosen are places among the pieces' best: look up where those came from.
    let row = rec.iota(0, &[rows, k], Element::I32);
    let width_of = rec.splat(width as f64, &[rows, k], Element::I32);
    let start = rec.multiply(&row, &width_of);
    let chosen = rec.add(&start, &chosen);
    let places = rec.reshape(&places, &[rows * width]);
    let places = rec.take_rows(&places, &chosen);
    (values, places)
}

fn neuron_call(rec: &mut Recorder, x: &Value, k: usize) -> (Value, Value) {
    let dims = [x.dims()[0], k];
    // It compares floating-point numbers only, and has no doubles.
    let input = if x.element().is_float() { x.clone() } else { rec.convert(x, Element::F32) };
    let config = CallConfig::Text(k.to_string());
    let call = CustomCall { name: "AwsNeuronTopK".to_owned(), config, aliases: Vec::new(), row_major: false };
    let types = [Type::new(&dims, input.element()), Type::new(&dims, Element::I32)];
    let mut results = rec.custom_call(&call, &[&input], &types);
    let places = results.pop().expect("the call was given two result types");
    let values = results.pop().expect("the call was given two result types");
    (rec.convert(&values, x.element()), places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(columns: usize, k: usize, target: &Target) -> (Vec<String>, Type, Type) {
        let mut rec = Recorder::new();
        let x = rec.argument("x", &[3, columns], Element::F32);
        let (values, places) = top_k(&mut rec, target, &x, k);
        let texts = rec.ops().iter().filter(|op| op.name == "stablehlo.custom_call" || op.name == "chlo.top_k");
        (texts.map(|op| op.text.clone()).collect(), values.ty().clone(), places.ty().clone())
    }

    #[test]
    fn each_target_is_asked_in_its_way() {
        let expected = (Type::new(&[3, 5], Element::F32), Type::new(&[3, 5], Element::I32));
        let (texts, values, places) = calls(100, 5, &Target::CPU);
        assert_eq!((texts.len(), (values, places)), (1, expected.clone()));
        assert!(texts[0].contains("chlo.top_k"), "{}", texts[0]);
        let (texts, values, places) = calls(100, 5, &Target::NEURON);
        assert_eq!((texts.len(), (values, places)), (1, expected));
        assert!(texts[0].contains("@AwsNeuronTopK(%x) {backend_config = \"5\"}"), "{}", texts[0]);
    }

    #[test]
    fn long_rows_are_cut_until_the_pieces_fit() {
        let (texts, values, _) = calls(40000, 256, &Target::NEURON);
        let widths: Vec<&str> =
            texts.iter().map(|text| text.split("(tensor<3x").nth(1).unwrap().split('x').next().unwrap()).collect();
        assert_eq!(widths, ["16384", "16384", "7232", "768"]);
        assert_eq!(values, Type::new(&[3, 256], Element::F32));
    }
}
