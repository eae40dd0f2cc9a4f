//! Weights in a program: widening, look-ups, products, and kernels that take them.

use super::Tracer;
use crate::layout::{Group, WeightLayout};
use crate::program::Part;
use crate::record::{Element, Order, Pairs, Type, Value};
use nxd_ops::{Gated, Kernel, Map, Role, Temperature, Weight};

impl Tracer<'_> {
    /// A norm weight or a bias, `[n]` in f32.
    pub(super) fn vector(&mut self, weight: Weight) -> Value {
        let rows = self.layout(weight).rows;
        self.b.weight(weight.0, Part::Values, &[rows], Element::F32)
    }

    /// `x · weightᵀ` in f32.
    pub(super) fn product(&mut self, x: &Value, weight: Weight) -> Value {
        let layout = self.layout(weight);
        let x = if layout.by_column { self.widened(x, weight) } else { x.clone() };
        let x = self.activation(&x);
        let matrix = self.matrix(weight);
        self.b.rec.dot(&x, &matrix, Pairs { contract: (&[1], &[1]), ..Pairs::default() })
    }

    /// The rank's input laid out as a weight expects that was cut inside a quantisation group: zero where another rank has the column.
    fn widened(&mut self, x: &Value, weight: Weight) -> Value {
        let cols = self.layout(weight).cols;
        let columns = self.b.weight(weight.0, Part::Columns, &[cols], Element::I32);
        // Columns are looked up as rows; one row of zeros more stands for "none".
        let rows = self.b.rec.transpose(x, &[1, 0]);
        let rows = self.b.rec.pad(&rows, 0, 0, 1);
        let rows = self.b.rec.take_rows(&rows, &columns);
        self.b.rec.transpose(&rows, &[1, 0])
    }

    /// A matrix in the type of activations.
    fn matrix(&mut self, weight: Weight) -> Value {
        let layout = self.layout(weight);
        let dims = [layout.rows, layout.cols];
        let values = self.b.weight(weight.0, Part::Values, &dims, layout.values);
        let Some([rows, cols]) = layout.grid() else { return self.activation(&values) };
        let scales = self.b.weight(weight.0, Part::Scales, &[rows, cols], Element::F32);
        let mins = layout.group.filter(|g| g.mins);
        let mins = mins.map(|_| self.b.weight(weight.0, Part::Mins, &[rows, cols], Element::F32));
        let wide = self.dequantised(&values, &scales, mins.as_ref(), layout);
        self.activation(&wide)
    }

    /// `value * scale + min`, each scale and minimum serving a group.
    fn dequantised(&mut self, values: &Value, scales: &Value, mins: Option<&Value>, layout: &WeightLayout) -> Value {
        let wide = self.f32(values);
        let scales = self.over_groups(scales, values.dims(), layout);
        let product = self.b.rec.multiply(&wide, &scales);
        match mins {
            Some(mins) => {
                let mins = self.over_groups(mins, values.dims(), layout);
                self.b.rec.add(&product, &mins)
            }
            None => product,
        }
    }

    /// A grid `[g, h]` repeated over the numbers of its groups, `[rows, cols]`.
    fn over_groups(&mut self, grid: &Value, dims: &[usize], layout: &WeightLayout) -> Value {
        let Some(group) = layout.group else { return grid.clone() };
        let [g, h] = [grid.dims()[0], grid.dims()[1]];
        let repeated = self.b.rec.broadcast(grid, &[0, 2], &[g, group.rows, h, group.cols]);
        let flat = self.b.rec.reshape(&repeated, &[g * group.rows, h * group.cols]);
        // The last groups may reach over the edge.
        let flat = self.b.rec.slice(&flat, 0, 0..dims[0]);
        self.b.rec.slice(&flat, 1, 0..dims[1])
    }

    /// The rows of a table for `tokens` `[T]`; zeros where another rank holds the row.
    pub(super) fn look_up(&mut self, table: Weight, tokens: &Value) -> Value {
        let layout = self.layout(table);
        let (rows, cols) = (layout.rows, layout.cols);
        let count = tokens.dims()[0];
        let (index, held) = if layout.by_row {
            let first = self.b.weight(table.0, Part::FirstRow, &[], Element::I32);
            let first = self.b.rec.broadcast(&first, &[], &[count]);
            let index = self.b.rec.subtract(tokens, &first);
            let (zero, end) = (
                self.b.rec.splat(0.0, &[count], Element::I32),
                self.b.rec.splat(rows as f64 - 1.0, &[count], Element::I32),
            );
            let low = self.b.rec.compare(Order::Ge, &index, &zero);
            let high = self.b.rec.compare(Order::Le, &index, &end);
            let held = self.b.rec.and(&low, &high);
            // An index outside the table must not be used, not even for a row that is thrown away.
            let index = self.b.rec.select(&held, &index, &zero);
            (index, Some(held))
        } else {
            (tokens.clone(), None)
        };
        let values = self.b.weight(table.0, Part::Values, &[rows, cols], layout.values);
        let mut found = self.b.rec.take_rows(&values, &index);
        if let (Some([grid_rows, grid_cols]), Some(group)) = (layout.grid(), layout.group) {
            let grid_index = match group.rows {
                1 => index.clone(),
                height => {
                    let height = self.b.rec.splat(height as f64, &[count], Element::I32);
                    self.b.rec.divide(&index, &height)
                }
            };
            let mut of_rows = |part| {
                let grid = self.b.weight(table.0, part, &[grid_rows, grid_cols], Element::F32);
                self.b.rec.take_rows(&grid, &grid_index)
            };
            let scales = of_rows(Part::Scales);
            let mins = group.mins.then(|| of_rows(Part::Mins));
            // What was looked up has a scale for each row.
            let by_row = WeightLayout { rows: count, group: Some(Group { rows: 1, ..group }), ..layout.clone() };
            found = self.dequantised(&found, &scales, mins.as_ref(), &by_row);
        }
        let found = self.activation(&found);
        let Some(held) = held else { return found };
        let held = self.b.rec.broadcast(&held, &[0], &[count, cols]);
        let zeros = self.b.rec.splat(0.0, &[count, cols], found.element());
        self.b.rec.select(&held, &found, &zeros)
    }

    /// `act(gate) * up`, in f32.
    pub(super) fn met(&mut self, gate: &Value, up: &Value, activation: Gated) -> Value {
        let activated = self.activate(gate, activation);
        let Gated::Clamped { limit } = activation else { return self.b.rec.multiply(&activated, up) };
        let [most, least, one] = [limit, -limit, 1.0].map(|x| self.b.rec.splat(f64::from(x), up.dims(), Element::F32));
        let up = self.b.rec.minimum(up, &most);
        let up = self.b.rec.maximum(&up, &least);
        let up = self.b.rec.add(&up, &one);
        self.b.rec.multiply(&activated, &up)
    }

    /// `act(x)`, in f32.
    fn activate(&mut self, x: &Value, activation: Gated) -> Value {
        match activation {
            Gated::Clamped { limit } => {
                let most = self.b.rec.splat(f64::from(limit), x.dims(), Element::F32);
                let x = self.b.rec.minimum(x, &most);
                let bent = self.b.rec.scale(&x, 1.702);
                let sigmoid = self.b.rec.logistic(&bent);
                self.b.rec.multiply(&x, &sigmoid)
            }
            Gated::Silu => {
                let sigmoid = self.b.rec.logistic(x);
                self.b.rec.multiply(x, &sigmoid)
            }
            Gated::Gelu => {
                let inner = self.b.rec.scale(x, std::f32::consts::FRAC_1_SQRT_2);
                let erf = self.b.rec.erf(&inner);
                self.half_of_one_plus(x, &erf)
            }
            Gated::Relu2 => {
                let zero = self.b.rec.splat(0.0, x.dims(), x.element());
                let positive = self.b.rec.maximum(x, &zero);
                self.b.rec.multiply(&positive, &positive)
            }
            Gated::GeluTanh => {
                let square = self.b.rec.multiply(x, x);
                let cube = self.b.rec.multiply(&square, x);
                let cube = self.b.rec.scale(&cube, 0.044_715);
                let inner = self.b.rec.add(x, &cube);
                // √(2/π)
                let inner = self.b.rec.scale(&inner, 0.797_884_6);
                let tanh = self.b.rec.tanh(&inner);
                self.half_of_one_plus(x, &tanh)
            }
        }
    }

    /// `f(x)`, in f32.
    pub(super) fn mapped(&mut self, x: &Value, f: Map) -> Value {
        match f {
            Map::Activation(activation) => self.activate(x, activation),
            Map::Clamp(limit) => {
                let limits = [limit, -limit].map(|limit| self.b.rec.splat(f64::from(limit), x.dims(), x.element()));
                let [most, least] = limits;
                let below = self.b.rec.minimum(x, &most);
                self.b.rec.maximum(&below, &least)
            }
            Map::SoftCap(cap) => {
                let inner = self.b.rec.scale(x, 1.0 / cap);
                let bent = self.b.rec.tanh(&inner);
                self.b.rec.scale(&bent, cap)
            }
        }
    }

    /// The factor of each row's position, `[T]`.
    pub(super) fn temperatures(&mut self, temperature: &Temperature) -> Value {
        let rows = self.bucket().rows();
        let positions = self.b.input("positions", &[rows], Element::I32);
        let rec = &mut self.b.rec;
        let (one, floor) =
            (rec.splat(1.0, &[rows], Element::I32), rec.splat(temperature.floor as f64, &[rows], Element::I32));
        let next = rec.add(&positions, &one);
        let steps = rec.divide(&next, &floor);
        let steps = rec.convert(&steps, Element::F32);
        let one = rec.splat(1.0, &[rows], Element::F32);
        let steps = rec.add(&steps, &one);
        let logarithm = rec.log(&steps);
        let grown = rec.scale(&logarithm, temperature.scale);
        rec.add(&grown, &one)
    }

    /// `x * (1 + y) / 2`.
    fn half_of_one_plus(&mut self, x: &Value, y: &Value) -> Value {
        let one = self.b.rec.splat(1.0, y.dims(), y.element());
        let sum = self.b.rec.add(&one, y);
        let half = self.b.rec.scale(x, 0.5);
        self.b.rec.multiply(&half, &sum)
    }

    /// What a kernel registered for the target gives; `None` when there is none and the kernel's composition is to be recorded.
    pub(super) fn lowered<K: Kernel>(
        &mut self,
        kernel: &K,
        inputs: &[&Value],
        weights: &[Weight],
    ) -> Option<Vec<Value>> {
        if !self.setting.kernels.has(kernel.name(), self.setting.target) {
            return None;
        }
        let shapes: Vec<[usize; 2]> = inputs.iter().map(|x| [x.dims()[0], x.dims()[1]]).collect();
        let element = self.setting.dtype;
        let results: Vec<Type> = kernel.outputs(&shapes).iter().map(|dims| Type::new(dims, element)).collect();
        let mut operands: Vec<Value> = inputs.iter().map(|x| (*x).clone()).collect();
        for &weight in weights {
            let operand = match self.setting.manifest.spec(weight).role {
                Role::Vector => self.vector(weight),
                _ => self.matrix(weight),
            };
            operands.push(operand);
        }
        let operands: Vec<&Value> = operands.iter().collect();
        let (kernels, target) = (self.setting.kernels, self.setting.target);
        let (name, attributes) = (kernel.name(), kernel.attributes());
        kernels.lower(&mut self.b.rec, target, name, &attributes, &operands, &results)
    }
}
