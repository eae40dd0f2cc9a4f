module @forward_r2_q1_w2_b8 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} {
  func.func public @main(
    %w0: tensor<12x32xf32>,
    %w0_first: tensor<i32>,
    %w1: tensor<32xf32>,
    %w2: tensor<16x32xf32>,
    %w3: tensor<16x32xf32>,
    %w4: tensor<32x16xf32>,
    %keys0: tensor<144x2x8xf32> {tf.aliasing_output = 0 : i32},
    %values0: tensor<144x2x8xf32> {tf.aliasing_output = 1 : i32},
    %first_block0: tensor<2xi32>,
    %lengths: tensor<2xi32>,
    %positions: tensor<2xi32>,
    %slots0: tensor<2xi32>,
    %table0: tensor<2x8xi32>,
    %tokens: tensor<2xi32>,
    %wanted: tensor<2xi32>
  ) -> (tensor<144x2x8xf32>, tensor<144x2x8xf32>, tensor<2x32xf32>) {
    %0 = stablehlo.broadcast_in_dim %w0_first, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %1 = stablehlo.subtract %tokens, %0 : tensor<2xi32>
    %2 = stablehlo.constant dense<0> : tensor<2xi32>
    %3 = stablehlo.constant dense<11> : tensor<2xi32>
    %4 = stablehlo.compare GE, %1, %2, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %5 = stablehlo.compare LE, %1, %3, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %6 = stablehlo.and %4, %5 : tensor<2xi1>
    %7 = stablehlo.select %6, %1, %2 : tensor<2xi1>, tensor<2xi32>
    %8 = stablehlo.reshape %7 : (tensor<2xi32>) -> tensor<2x1xi32>
    %9 = "stablehlo.gather"(%w0, %8) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<12x32xf32>, tensor<2x1xi32>) -> tensor<2x32xf32>
    %10 = stablehlo.broadcast_in_dim %6, dims = [0] : (tensor<2xi1>) -> tensor<2x32xi1>
    %11 = stablehlo.constant dense<0x00000000> : tensor<2x32xf32>
    %12 = stablehlo.select %10, %9, %11 : tensor<2x32xi1>, tensor<2x32xf32>
    %13 = "stablehlo.all_reduce"(%12) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %14 = stablehlo.reshape %13 : (tensor<2x32xf32>) -> tensor<2x1x32xf32>
    %15 = stablehlo.multiply %14, %14 : tensor<2x1x32xf32>
    %16 = stablehlo.constant dense<0x00000000> : tensor<f32>
    %17 = stablehlo.reduce(%15 init: %16) applies stablehlo.add across dimensions = [2] : (tensor<2x1x32xf32>, tensor<f32>) -> tensor<2x1xf32>
    %18 = stablehlo.constant dense<0x3D000000> : tensor<2x1xf32>
    %19 = stablehlo.multiply %17, %18 : tensor<2x1xf32>
    %20 = stablehlo.constant dense<0x3727C5AC> : tensor<2x1xf32>
    %21 = stablehlo.add %19, %20 : tensor<2x1xf32>
    %22 = stablehlo.rsqrt %21 : tensor<2x1xf32>
    %23 = stablehlo.broadcast_in_dim %22, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1x32xf32>
    %24 = stablehlo.multiply %14, %23 : tensor<2x1x32xf32>
    %25 = stablehlo.constant dense<0x00000000> : tensor<32xf32>
    %26 = stablehlo.add %w1, %25 : tensor<32xf32>
    %27 = stablehlo.broadcast_in_dim %26, dims = [2] : (tensor<32xf32>) -> tensor<2x1x32xf32>
    %28 = stablehlo.multiply %24, %27 : tensor<2x1x32xf32>
    %29 = stablehlo.reshape %28 : (tensor<2x1x32xf32>) -> tensor<2x32xf32>
    %30 = stablehlo.dot_general %29, %w2, contracting_dims = [1] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x32xf32>, tensor<16x32xf32>) -> tensor<2x16xf32>
    %31 = stablehlo.dot_general %29, %w3, contracting_dims = [1] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x32xf32>, tensor<16x32xf32>) -> tensor<2x16xf32>
    %32 = stablehlo.constant dense<[0x3F800000, 0x3DCCCCCD, 0x3C23D70A, 0x3A83126F]> : tensor<4xf32>
    %33 = stablehlo.broadcast_in_dim %32, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
    %34 = stablehlo.convert %positions : (tensor<2xi32>) -> tensor<2xf32>
    %35 = stablehlo.broadcast_in_dim %34, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
    %36 = stablehlo.multiply %35, %33 : tensor<2x4xf32>
    %37 = stablehlo.cosine %36 : tensor<2x4xf32>
    %38 = stablehlo.sine %36 : tensor<2x4xf32>
    %39 = stablehlo.reshape %30 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %40 = stablehlo.broadcast_in_dim %37, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %41 = stablehlo.broadcast_in_dim %38, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %42 = stablehlo.slice %39 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %43 = stablehlo.slice %39 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %44 = stablehlo.multiply %42, %40 : tensor<2x2x4xf32>
    %45 = stablehlo.multiply %43, %41 : tensor<2x2x4xf32>
    %46 = stablehlo.multiply %43, %40 : tensor<2x2x4xf32>
    %47 = stablehlo.multiply %42, %41 : tensor<2x2x4xf32>
    %48 = stablehlo.subtract %44, %45 : tensor<2x2x4xf32>
    %49 = stablehlo.add %46, %47 : tensor<2x2x4xf32>
    %50 = stablehlo.concatenate %48, %49, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %51 = stablehlo.reshape %50 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %52 = stablehlo.reshape %31 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %53 = stablehlo.broadcast_in_dim %37, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %54 = stablehlo.broadcast_in_dim %38, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %55 = stablehlo.slice %52 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %56 = stablehlo.slice %52 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %57 = stablehlo.multiply %55, %53 : tensor<2x2x4xf32>
    %58 = stablehlo.multiply %56, %54 : tensor<2x2x4xf32>
    %59 = stablehlo.multiply %56, %53 : tensor<2x2x4xf32>
    %60 = stablehlo.multiply %55, %54 : tensor<2x2x4xf32>
    %61 = stablehlo.subtract %57, %58 : tensor<2x2x4xf32>
    %62 = stablehlo.add %59, %60 : tensor<2x2x4xf32>
    %63 = stablehlo.concatenate %61, %62, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %64 = stablehlo.reshape %63 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %65 = stablehlo.reshape %64 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %66 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %67 = "stablehlo.scatter"(%keys0, %66, %65) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      stablehlo.return %b : tensor<f32>
    }) : (tensor<144x2x8xf32>, tensor<2x1xi32>, tensor<2x2x8xf32>) -> tensor<144x2x8xf32>
    %68 = stablehlo.reshape %31 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %69 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %70 = "stablehlo.scatter"(%values0, %69, %68) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      stablehlo.return %b : tensor<f32>
    }) : (tensor<144x2x8xf32>, tensor<2x1xi32>, tensor<2x2x8xf32>) -> tensor<144x2x8xf32>
    %71 = stablehlo.constant dense<16> : tensor<2xi32>
    %72 = stablehlo.multiply %first_block0, %71 : tensor<2xi32>
    %73 = stablehlo.broadcast_in_dim %72, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %74 = stablehlo.iota dim = 1 : tensor<2x128xi32>
    %75 = stablehlo.add %73, %74 : tensor<2x128xi32>
    %76 = stablehlo.broadcast_in_dim %lengths, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %77 = stablehlo.compare LT, %75, %76, SIGNED : (tensor<2x128xi32>, tensor<2x128xi32>) -> tensor<2x128xi1>
    %78 = stablehlo.broadcast_in_dim %75, dims = [0, 2] : (tensor<2x128xi32>) -> tensor<2x1x128xi32>
    %79 = stablehlo.reshape %positions : (tensor<2xi32>) -> tensor<2x1xi32>
    %80 = stablehlo.broadcast_in_dim %79, dims = [0, 1] : (tensor<2x1xi32>) -> tensor<2x1x128xi32>
    %81 = stablehlo.compare LE, %78, %80, SIGNED : (tensor<2x1x128xi32>, tensor<2x1x128xi32>) -> tensor<2x1x128xi1>
    %82 = stablehlo.reshape %67 : (tensor<144x2x8xf32>) -> tensor<9x16x2x8xf32>
    %83 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %84 = "stablehlo.gather"(%82, %83) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xf32>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xf32>
    %85 = stablehlo.reshape %84 : (tensor<2x8x16x2x8xf32>) -> tensor<2x128x2x8xf32>
    %86 = stablehlo.reshape %70 : (tensor<144x2x8xf32>) -> tensor<9x16x2x8xf32>
    %87 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %88 = "stablehlo.gather"(%86, %87) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xf32>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xf32>
    %89 = stablehlo.reshape %88 : (tensor<2x8x16x2x8xf32>) -> tensor<2x128x2x8xf32>
    %90 = stablehlo.abs %89 : tensor<2x128x2x8xf32>
    %91 = stablehlo.constant dense<0x7F800000> : tensor<2x128x2x8xf32>
    %92 = stablehlo.compare LT, %90, %91, FLOAT : (tensor<2x128x2x8xf32>, tensor<2x128x2x8xf32>) -> tensor<2x128x2x8xi1>
    %93 = stablehlo.broadcast_in_dim %77, dims = [0, 1] : (tensor<2x128xi1>) -> tensor<2x128x2x8xi1>
    %94 = stablehlo.and %93, %92 : tensor<2x128x2x8xi1>
    %95 = stablehlo.constant dense<0x00000000> : tensor<2x128x2x8xf32>
    %96 = stablehlo.select %94, %89, %95 : tensor<2x128x2x8xi1>, tensor<2x128x2x8xf32>
    %97 = stablehlo.not %92 : tensor<2x128x2x8xi1>
    %98 = stablehlo.and %93, %97 : tensor<2x128x2x8xi1>
    %99 = stablehlo.convert %98 : (tensor<2x128x2x8xi1>) -> tensor<2x128x2x8xf32>
    %100 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %101 = stablehlo.reduce(%99 init: %100) applies stablehlo.maximum across dimensions = [3] : (tensor<2x128x2x8xf32>, tensor<f32>) -> tensor<2x128x2xf32>
    %102 = stablehlo.convert %81 : (tensor<2x1x128xi1>) -> tensor<2x1x128xf32>
    %103 = stablehlo.dot_general %102, %101, batching_dims = [0] x [0], contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x1x128xf32>, tensor<2x128x2xf32>) -> tensor<2x1x2xf32>
    %104 = stablehlo.reshape %51 : (tensor<2x16xf32>) -> tensor<2x1x2x1x8xf32>
    %105 = stablehlo.dot_general %104, %85, batching_dims = [0, 2] x [0, 2], contracting_dims = [4] x [3], precision = [HIGHEST, HIGHEST] : (tensor<2x1x2x1x8xf32>, tensor<2x128x2x8xf32>) -> tensor<2x2x1x1x128xf32>
    %106 = stablehlo.constant dense<0x3EB504F4> : tensor<2x2x1x1x128xf32>
    %107 = stablehlo.multiply %105, %106 : tensor<2x2x1x1x128xf32>
    %108 = stablehlo.broadcast_in_dim %81, dims = [0, 2, 4] : (tensor<2x1x128xi1>) -> tensor<2x2x1x1x128xi1>
    %109 = stablehlo.constant dense<0xFF7FFFFF> : tensor<2x2x1x1x128xf32>
    %110 = stablehlo.select %108, %107, %109 : tensor<2x2x1x1x128xi1>, tensor<2x2x1x1x128xf32>
    %111 = stablehlo.reduce(%110 init: %100) applies stablehlo.maximum across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %112 = stablehlo.broadcast_in_dim %111, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %113 = stablehlo.subtract %110, %112 : tensor<2x2x1x1x128xf32>
    %114 = stablehlo.exponential %113 : tensor<2x2x1x1x128xf32>
    %115 = stablehlo.reduce(%114 init: %16) applies stablehlo.add across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %116 = stablehlo.broadcast_in_dim %115, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %117 = stablehlo.divide %114, %116 : tensor<2x2x1x1x128xf32>
    %118 = stablehlo.dot_general %117, %96, batching_dims = [0, 1] x [0, 2], contracting_dims = [4] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x2x1x1x128xf32>, tensor<2x128x2x8xf32>) -> tensor<2x2x1x1x8xf32>
    %119 = stablehlo.transpose %118, dims = [0, 2, 1, 3, 4] : (tensor<2x2x1x1x8xf32>) -> tensor<2x1x2x1x8xf32>
    %120 = stablehlo.constant dense<0x00000000> : tensor<2x1x2xf32>
    %121 = stablehlo.compare GT, %103, %120, FLOAT : (tensor<2x1x2xf32>, tensor<2x1x2xf32>) -> tensor<2x1x2xi1>
    %122 = stablehlo.broadcast_in_dim %121, dims = [0, 1, 2] : (tensor<2x1x2xi1>) -> tensor<2x1x2x1x8xi1>
    %123 = stablehlo.constant dense<0x7FC00000> : tensor<2x1x2x1x8xf32>
    %124 = stablehlo.select %122, %123, %119 : tensor<2x1x2x1x8xi1>, tensor<2x1x2x1x8xf32>
    %125 = stablehlo.reshape %124 : (tensor<2x1x2x1x8xf32>) -> tensor<2x16xf32>
    %126 = stablehlo.logistic %125 : tensor<2x16xf32>
    %127 = stablehlo.multiply %125, %126 : tensor<2x16xf32>
    %128 = stablehlo.multiply %127, %31 : tensor<2x16xf32>
    %129 = stablehlo.dot_general %128, %w4, contracting_dims = [1] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x16xf32>, tensor<32x16xf32>) -> tensor<2x32xf32>
    %130 = "stablehlo.all_reduce"(%129) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %131 = stablehlo.add %13, %130 : tensor<2x32xf32>
    %132 = stablehlo.reshape %wanted : (tensor<2xi32>) -> tensor<2x1xi32>
    %133 = "stablehlo.gather"(%131, %132) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<2x32xf32>, tensor<2x1xi32>) -> tensor<2x32xf32>
    return %67, %70, %133 : tensor<144x2x8xf32>, tensor<144x2x8xf32>, tensor<2x32xf32>
  }
}
