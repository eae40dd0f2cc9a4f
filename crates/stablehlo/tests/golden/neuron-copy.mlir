module @copy_g0_b2 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} {
  func.func public @main(
    %keys0: tensor<144x2x8xbf16> {tf.aliasing_output = 0 : i32},
    %values0: tensor<144x2x8xbf16> {tf.aliasing_output = 1 : i32},
    %copy_from: tensor<2xi32>,
    %copy_to: tensor<2xi32>
  ) -> (tensor<144x2x8xbf16>, tensor<144x2x8xbf16>) {
    %0 = stablehlo.reshape %keys0 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %1 = stablehlo.reshape %copy_from : (tensor<2xi32>) -> tensor<2x1xi32>
    %2 = "stablehlo.gather"(%0, %1) <{dimension_numbers = #stablehlo.gather<offset_dims = [1, 2, 3], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x1xi32>) -> tensor<2x16x2x8xbf16>
    %3 = stablehlo.reshape %copy_to : (tensor<2xi32>) -> tensor<2x1xi32>
    %4 = "stablehlo.scatter"(%0, %3, %2) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2, 3], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<9x16x2x8xbf16>, tensor<2x1xi32>, tensor<2x16x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %5 = stablehlo.reshape %4 : (tensor<9x16x2x8xbf16>) -> tensor<144x2x8xbf16>
    %6 = stablehlo.reshape %values0 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %7 = stablehlo.reshape %copy_from : (tensor<2xi32>) -> tensor<2x1xi32>
    %8 = "stablehlo.gather"(%6, %7) <{dimension_numbers = #stablehlo.gather<offset_dims = [1, 2, 3], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x1xi32>) -> tensor<2x16x2x8xbf16>
    %9 = stablehlo.reshape %copy_to : (tensor<2xi32>) -> tensor<2x1xi32>
    %10 = "stablehlo.scatter"(%6, %9, %8) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2, 3], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<9x16x2x8xbf16>, tensor<2x1xi32>, tensor<2x16x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %11 = stablehlo.reshape %10 : (tensor<9x16x2x8xbf16>) -> tensor<144x2x8xbf16>
    return %5, %11 : tensor<144x2x8xbf16>, tensor<144x2x8xbf16>
  }
}
