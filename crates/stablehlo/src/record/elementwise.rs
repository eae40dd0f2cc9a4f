//! Ops on elements: arithmetic, comparison, conversion.

use super::{Element, Recorder, Type, Value, types};

/// How two tensors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the comparisons' own names")]
pub enum Order {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident = $name:literal;)*) => {
        impl Recorder {
            $($(#[$doc])*
            pub fn $method(&mut self, x: &Value) -> Value {
                self.unary($name, x)
            })*
        }
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident = $name:literal;)*) => {
        impl Recorder {
            $($(#[$doc])*
            pub fn $method(&mut self, x: &Value, y: &Value) -> Value {
                self.binary($name, x, y)
            })*
        }
    };
}

unary! {
    /// `|x|`.
    abs = "stablehlo.abs";
    /// `-x`.
    negate = "stablehlo.negate";
    /// `e^x`.
    exponential = "stablehlo.exponential";
    /// Natural logarithm.
    log = "stablehlo.log";
    /// `1 / (1 + e^-x)`.
    logistic = "stablehlo.logistic";
    /// Hyperbolic tangent.
    tanh = "stablehlo.tanh";
    /// The error function.
    erf = "chlo.erf";
    /// `1 / √x`.
    rsqrt = "stablehlo.rsqrt";
    /// Cosine.
    cosine = "stablehlo.cosine";
    /// Sine.
    sine = "stablehlo.sine";
    /// The complement of every bit.
    not = "stablehlo.not";
}

binary! {
    /// `x + y`.
    add = "stablehlo.add";
    /// `x - y`.
    subtract = "stablehlo.subtract";
    /// `x * y`.
    multiply = "stablehlo.multiply";
    /// `x / y`.
    divide = "stablehlo.divide";
    /// The remainder of `x / y`, with the sign of `x`.
    remainder = "stablehlo.remainder";
    /// The larger.
    maximum = "stablehlo.maximum";
    /// The smaller.
    minimum = "stablehlo.minimum";
    /// Both, bit by bit.
    and = "stablehlo.and";
    /// Either, bit by bit.
    or = "stablehlo.or";
    /// One but not both, bit by bit.
    xor = "stablehlo.xor";
    /// `x` shifted to higher bits.
    shift_left = "stablehlo.shift_left";
    /// `x` shifted to lower bits, zeros coming in.
    shift_right_logical = "stablehlo.shift_right_logical";
}

impl Recorder {
    fn unary(&mut self, name: &'static str, x: &Value) -> Value {
        self.push(name, &[x], x.ty().clone(), |ty| match name {
            "chlo.erf" => format!("{name} {} : {ty} -> {ty}", x.name()),
            _ => format!("{name} {} : {ty}", x.name()),
        })
    }

    fn binary(&mut self, name: &'static str, x: &Value, y: &Value) -> Value {
        assert_eq!(x.ty(), y.ty(), "operands of {name}");
        self.push(name, &[x, y], x.ty().clone(), |ty| format!("{name} {}, {} : {ty}", x.name(), y.name()))
    }

    /// Where `x` and `y` are in the given order.
    pub fn compare(&mut self, order: Order, x: &Value, y: &Value) -> Value {
        assert_eq!(x.ty(), y.ty(), "operands of stablehlo.compare");
        let direction = match order {
            Order::Eq => "EQ",
            Order::Ne => "NE",
            Order::Lt => "LT",
            Order::Le => "LE",
            Order::Gt => "GT",
            Order::Ge => "GE",
        };
        let kind = match x.element() {
            element if element.is_float() => "FLOAT",
            Element::I1 | Element::U32 | Element::U64 => "UNSIGNED",
            _ => "SIGNED",
        };
        let ty = Type { dims: x.ty().dims.clone(), element: Element::I1 };
        self.push("stablehlo.compare", &[x, y], ty, |ty| {
            format!("stablehlo.compare {direction}, {}, {}, {kind} : ({}) -> {ty}", x.name(), y.name(), types(&[x, y]))
        })
    }

    /// `x` where `condition` holds, else `y`.
    pub fn select(&mut self, condition: &Value, x: &Value, y: &Value) -> Value {
        assert_eq!(x.ty(), y.ty(), "operands of stablehlo.select");
        assert_eq!((condition.dims(), condition.element()), (x.dims(), Element::I1), "condition of stablehlo.select");
        self.push("stablehlo.select", &[condition, x, y], x.ty().clone(), |ty| {
            let (c, x, y) = (condition.name(), x.name(), y.name());
            format!("stablehlo.select {c}, {x}, {y} : {}, {ty}", condition.ty())
        })
    }

    /// The same numbers as another type; nothing when it is the type they have.
    pub fn convert(&mut self, x: &Value, element: Element) -> Value {
        if x.element() == element {
            return x.clone();
        }
        let ty = Type { dims: x.ty().dims.clone(), element };
        self.push("stablehlo.convert", &[x], ty, |ty| format!("stablehlo.convert {} : ({}) -> {ty}", x.name(), x.ty()))
    }

    /// `x * factor`.
    pub fn scale(&mut self, x: &Value, factor: f32) -> Value {
        let factor = self.splat(f64::from(factor), x.dims(), x.element());
        self.multiply(x, &factor)
    }
}
