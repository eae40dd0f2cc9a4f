//! Ops whose places are data: looking up and replacing rows, sorting.

use super::{Element, Recorder, Type, Value, types};

impl Recorder {
    /// Rows of `table` `[N, …]` by `indices` of any shape `[I …]`: `[I …, …]`. Every index must lie within the table.
    pub fn take_rows(&mut self, table: &Value, indices: &Value) -> Value {
        let (outer, row) = (indices.dims().to_vec(), table.dims()[1..].to_vec());
        let mut with_index = outer.clone();
        with_index.push(1);
        let indices = self.reshape(indices, &with_index);
        let dims: Vec<usize> = outer.iter().chain(&row).copied().collect();
        let offset: Vec<usize> = (outer.len()..dims.len()).collect();
        let sizes: Vec<String> = std::iter::once(&1).chain(&row).map(usize::to_string).collect();
        self.push("stablehlo.gather", &[table, &indices], Type::new(&dims, table.element()), |ty| {
            format!(
                "\"stablehlo.gather\"({}, {}) <{{dimension_numbers = #stablehlo.gather<offset_dims = {offset:?}, \
                 collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = {}>, \
                 slice_sizes = array<i64: {}>, indices_are_sorted = false}}> : ({}) -> {ty}",
                table.name(),
                indices.name(),
                outer.len(),
                sizes.join(", "),
                types(&[table, &indices])
            )
        })
    }

    /// `table` `[N, …]` with the rows at `indices` `[M]` replaced by those of `rows` `[M, …]`; of equal indices any may win.
    pub fn put_rows(&mut self, table: &Value, indices: &Value, rows: &Value) -> Value {
        self.scatter(table, indices, rows, false)
    }

    /// As [`Recorder::put_rows`], but the rows are added; equal indices add up.
    pub fn add_rows(&mut self, table: &Value, indices: &Value, rows: &Value) -> Value {
        self.scatter(table, indices, rows, true)
    }

    fn scatter(&mut self, table: &Value, indices: &Value, rows: &Value, adds: bool) -> Value {
        assert_eq!(table.element(), rows.element(), "rows of stablehlo.scatter");
        assert_eq!(table.dims()[1..], rows.dims()[1..], "rows of stablehlo.scatter");
        let count = indices.dims()[0];
        let indices = self.reshape(indices, &[count, 1]);
        let window: Vec<usize> = (1..rows.dims().len()).collect();
        let element = Type::new(&[], table.element());
        let (body, statement, given) = match adds {
            true => ("add", format!("%c = stablehlo.add %a, %b : {element}; "), "%c"),
            false => ("assign", String::new(), "%b"),
        };
        // MLIR separates statements by lines.
        let statement = statement.replace("; ", "\n      ");
        let text = format!(
            "\"stablehlo.scatter\"({}, {}, {}) <{{scatter_dimension_numbers = #stablehlo.scatter<\
             update_window_dims = {window:?}, inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], \
             index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}}> ({{\n    \
             ^bb0(%a: {element}, %b: {element}):\n      {statement}stablehlo.return {given} : {element}\n    }}) : ({}) -> {}",
            table.name(),
            indices.name(),
            rows.name(),
            types(&[table, &indices, rows]),
            table.ty()
        );
        let operands = [table, &indices, rows];
        let mut results = self.push_all("stablehlo.scatter", &operands, &[table.ty().clone()], text, Some(body), None);
        results.pop().expect("a scatter of one operand has one result")
    }

    /// Sorts the last dimension of `keys` from the largest down and moves the elements of `carried` with them; equals keep their order.
    pub fn sort_descending(&mut self, keys: &Value, carried: &Value) -> (Value, Value) {
        assert_eq!(keys.dims(), carried.dims(), "operands of stablehlo.sort");
        let dim = keys.dims().len() - 1;
        let (key, other) = (Type::new(&[], keys.element()), Type::new(&[], carried.element()));
        let kind = if keys.element().is_float() { "FLOAT" } else { "SIGNED" };
        let text = format!(
            "\"stablehlo.sort\"({}, {}) <{{dimension = {dim} : i64, is_stable = true}}> ({{\n    \
             ^bb0(%a: {key}, %b: {key}, %c: {other}, %d: {other}):\n      \
             %e = stablehlo.compare GT, %a, %b, {kind} : ({key}, {key}) -> tensor<i1>\n      \
             stablehlo.return %e : tensor<i1>\n    }}) : ({}) -> ({})",
            keys.name(),
            carried.name(),
            types(&[keys, carried]),
            types(&[keys, carried])
        );
        let kinds = [keys.ty().clone(), carried.ty().clone()];
        let mut results = self.push_all("stablehlo.sort", &[keys, carried], &kinds, text, Some("compare"), None);
        let carried = results.pop().expect("a sort of two operands has two results");
        let keys = results.pop().expect("a sort of two operands has two results");
        (keys, carried)
    }

    /// The `k` largest of the last dimension of `x`, largest first and of equals the first, and their indices as i32.
    pub fn top_k(&mut self, x: &Value, k: usize) -> (Value, Value) {
        let mut dims = x.dims().to_vec();
        *dims.last_mut().expect("top-k needs a dimension") = k;
        let (values, indices) = (Type::new(&dims, x.element()), Type::new(&dims, Element::I32));
        let text = format!("chlo.top_k({}, k = {k}) : {} -> ({values}, {indices})", x.name(), x.ty());
        let mut results = self.push_all("chlo.top_k", &[x], &[values, indices], text, None, None);
        let indices = results.pop().expect("top-k has two results");
        let values = results.pop().expect("top-k has two results");
        (values, indices)
    }

    /// The index of the largest element of the last dimension, of equals the lowest, as i32; elements must not be NaN.
    pub fn argmax(&mut self, x: &Value) -> Value {
        use super::Fold;
        use super::elementwise::Order;
        let dim = x.dims().len() - 1;
        let dims = x.dims().to_vec();
        // Two plain reductions instead of one over pairs: every compiler knows them.
        let largest = self.reduce_keep(x, Fold::Max, dim);
        let is_largest = self.compare(Order::Eq, x, &largest);
        let index = self.iota(dim, &dims, Element::I32);
        let beyond = self.splat(dims[dim] as f64 - 1.0, &dims, Element::I32);
        let index = self.select(&is_largest, &index, &beyond);
        self.reduce(&index, Fold::Min, dim)
    }
}
