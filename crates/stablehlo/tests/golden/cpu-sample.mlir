module @sample_s2 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} {
  func.func public @main(
    %w0: tensor<12x32xf32>,
    %hidden: tensor<2x32xf32>,
    %rows: tensor<2xi32>
  ) -> (tensor<2xi32>) {
    %0 = stablehlo.reshape %rows : (tensor<2xi32>) -> tensor<2x1xi32>
    %1 = "stablehlo.gather"(%hidden, %0) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<2x32xf32>, tensor<2x1xi32>) -> tensor<2x32xf32>
    %2 = stablehlo.dot_general %1, %w0, contracting_dims = [1] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x32xf32>, tensor<12x32xf32>) -> tensor<2x12xf32>
    %3 = "stablehlo.all_gather"(%2) <{all_gather_dim = 1 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> : (tensor<2x12xf32>) -> tensor<2x24xf32>
    %4 = stablehlo.constant dense<0x7F800000> : tensor<2x24xf32>
    %5 = stablehlo.constant dense<0xFF800000> : tensor<2x24xf32>
    %6 = stablehlo.compare LT, %3, %4, FLOAT : (tensor<2x24xf32>, tensor<2x24xf32>) -> tensor<2x24xi1>
    %7 = stablehlo.select %6, %3, %5 : tensor<2x24xi1>, tensor<2x24xf32>
    %8 = stablehlo.not %6 : tensor<2x24xi1>
    %9 = stablehlo.constant dense<false> : tensor<i1>
    %10 = stablehlo.reduce(%8 init: %9) applies stablehlo.or across dimensions = [1] : (tensor<2x24xi1>, tensor<i1>) -> tensor<2xi1>
    %11 = stablehlo.not %10 : tensor<2xi1>
    %12 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %13 = stablehlo.reduce(%7 init: %12) applies stablehlo.maximum across dimensions = [1] : (tensor<2x24xf32>, tensor<f32>) -> tensor<2xf32>
    %14 = stablehlo.constant dense<0xFF800000> : tensor<2xf32>
    %15 = stablehlo.constant dense<0x00000000> : tensor<2xf32>
    %16 = stablehlo.compare GT, %13, %14, FLOAT : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xi1>
    %17 = stablehlo.select %16, %13, %15 : tensor<2xi1>, tensor<2xf32>
    %18 = stablehlo.and %11, %16 : tensor<2xi1>
    %19 = stablehlo.reduce(%7 init: %12) applies stablehlo.maximum across dimensions = [1] : (tensor<2x24xf32>, tensor<f32>) -> tensor<2xf32>
    %20 = stablehlo.broadcast_in_dim %19, dims = [0] : (tensor<2xf32>) -> tensor<2x24xf32>
    %21 = stablehlo.compare EQ, %7, %20, FLOAT : (tensor<2x24xf32>, tensor<2x24xf32>) -> tensor<2x24xi1>
    %22 = stablehlo.iota dim = 1 : tensor<2x24xi32>
    %23 = stablehlo.constant dense<23> : tensor<2x24xi32>
    %24 = stablehlo.select %21, %22, %23 : tensor<2x24xi1>, tensor<2x24xi32>
    %25 = stablehlo.constant dense<2147483647> : tensor<i32>
    %26 = stablehlo.reduce(%24 init: %25) applies stablehlo.minimum across dimensions = [1] : (tensor<2x24xi32>, tensor<i32>) -> tensor<2xi32>
    %27 = stablehlo.constant dense<-1> : tensor<2xi32>
    %28 = stablehlo.select %18, %26, %27 : tensor<2xi1>, tensor<2xi32>
    return %28 : tensor<2xi32>
  }
}
