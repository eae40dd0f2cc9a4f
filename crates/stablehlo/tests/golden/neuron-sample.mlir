module @sample_s2 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} {
  func.func public @main(
    %w0: tensor<12x32xbf16>,
    %hidden: tensor<2x32xf32>,
    %rows: tensor<2xi32>
  ) -> (tensor<2xi32>) {
    %0 = stablehlo.reshape %rows : (tensor<2xi32>) -> tensor<2x1xi32>
    %1 = "stablehlo.gather"(%hidden, %0) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<2x32xf32>, tensor<2x1xi32>) -> tensor<2x32xf32>
    %2 = stablehlo.convert %1 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %3 = stablehlo.dot_general %2, %w0, contracting_dims = [1] x [1] : (tensor<2x32xbf16>, tensor<12x32xbf16>) -> tensor<2x12xf32>
    %4 = "stablehlo.all_gather"(%3) <{all_gather_dim = 1 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> : (tensor<2x12xf32>) -> tensor<2x24xf32>
    %5 = stablehlo.constant dense<0x7F800000> : tensor<2x24xf32>
    %6 = stablehlo.constant dense<0xFF800000> : tensor<2x24xf32>
    %7 = stablehlo.compare LT, %4, %5, FLOAT : (tensor<2x24xf32>, tensor<2x24xf32>) -> tensor<2x24xi1>
    %8 = stablehlo.select %7, %4, %6 : tensor<2x24xi1>, tensor<2x24xf32>
    %9 = stablehlo.not %7 : tensor<2x24xi1>
    %10 = stablehlo.constant dense<false> : tensor<i1>
    %11 = stablehlo.reduce(%9 init: %10) applies stablehlo.or across dimensions = [1] : (tensor<2x24xi1>, tensor<i1>) -> tensor<2xi1>
    %12 = stablehlo.not %11 : tensor<2xi1>
    %13 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %14 = stablehlo.reduce(%8 init: %13) applies stablehlo.maximum across dimensions = [1] : (tensor<2x24xf32>, tensor<f32>) -> tensor<2xf32>
    %15 = stablehlo.constant dense<0xFF800000> : tensor<2xf32>
    %16 = stablehlo.constant dense<0x00000000> : tensor<2xf32>
    %17 = stablehlo.compare GT, %14, %15, FLOAT : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xi1>
    %18 = stablehlo.select %17, %14, %16 : tensor<2xi1>, tensor<2xf32>
    %19 = stablehlo.and %12, %17 : tensor<2xi1>
    %20 = stablehlo.reduce(%8 init: %13) applies stablehlo.maximum across dimensions = [1] : (tensor<2x24xf32>, tensor<f32>) -> tensor<2xf32>
    %21 = stablehlo.broadcast_in_dim %20, dims = [0] : (tensor<2xf32>) -> tensor<2x24xf32>
    %22 = stablehlo.compare EQ, %8, %21, FLOAT : (tensor<2x24xf32>, tensor<2x24xf32>) -> tensor<2x24xi1>
    %23 = stablehlo.iota dim = 1 : tensor<2x24xi32>
    %24 = stablehlo.constant dense<23> : tensor<i32>
    %25 = stablehlo.optimization_barrier %24 : tensor<i32>
    %26 = stablehlo.broadcast_in_dim %25, dims = [] : (tensor<i32>) -> tensor<2x24xi32>
    %27 = stablehlo.select %22, %23, %26 : tensor<2x24xi1>, tensor<2x24xi32>
    %28 = stablehlo.constant dense<2147483647> : tensor<i32>
    %29 = stablehlo.reduce(%27 init: %28) applies stablehlo.minimum across dimensions = [1] : (tensor<2x24xi32>, tensor<i32>) -> tensor<2xi32>
    %30 = stablehlo.constant dense<-1> : tensor<i32>
    %31 = stablehlo.optimization_barrier %30 : tensor<i32>
    %32 = stablehlo.broadcast_in_dim %31, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %33 = stablehlo.select %19, %29, %32 : tensor<2xi1>, tensor<2xi32>
    return %33 : tensor<2xi32>
  }
}
