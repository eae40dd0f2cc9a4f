module @forward_r2_q1_w2_b8 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} {
  func.func public @main(
    %w0: tensor<12x32xbf16>,
    %w0_first: tensor<i32>,
    %w1: tensor<32xf32>,
    %w2: tensor<16x32xbf16>,
    %w3: tensor<16x32xbf16>,
    %w4: tensor<32x16xbf16>,
    %keys0: tensor<144x2x8xbf16> {tf.aliasing_output = 0 : i32},
    %values0: tensor<144x2x8xbf16> {tf.aliasing_output = 1 : i32},
    %first_block0: tensor<2xi32>,
    %lengths: tensor<2xi32>,
    %positions: tensor<2xi32>,
    %slots0: tensor<2xi32>,
    %table0: tensor<2x8xi32>,
    %tokens: tensor<2xi32>,
    %wanted: tensor<2xi32>
  ) -> (tensor<144x2x8xbf16>, tensor<144x2x8xbf16>, tensor<2x32xf32>) {
    %0 = stablehlo.broadcast_in_dim %w0_first, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %1 = stablehlo.subtract %tokens, %0 : tensor<2xi32>
    %2 = stablehlo.constant dense<0> : tensor<2xi32>
    %3 = stablehlo.constant dense<11> : tensor<2xi32>
    %4 = stablehlo.compare GE, %1, %2, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %5 = stablehlo.compare LE, %1, %3, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %6 = stablehlo.and %4, %5 : tensor<2xi1>
    %7 = stablehlo.select %6, %1, %2 : tensor<2xi1>, tensor<2xi32>
    %8 = stablehlo.reshape %7 : (tensor<2xi32>) -> tensor<2x1xi32>
    %9 = "stablehlo.gather"(%w0, %8) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<12x32xbf16>, tensor<2x1xi32>) -> tensor<2x32xbf16>
    %10 = stablehlo.broadcast_in_dim %6, dims = [0] : (tensor<2xi1>) -> tensor<2x32xi1>
    %11 = stablehlo.constant dense<0x0000> : tensor<2x32xbf16>
    %12 = stablehlo.select %10, %9, %11 : tensor<2x32xi1>, tensor<2x32xbf16>
    %13 = stablehlo.convert %12 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %14 = "stablehlo.all_reduce"(%13) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %15 = stablehlo.convert %14 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %16 = stablehlo.convert %15 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %17 = stablehlo.reshape %16 : (tensor<2x32xf32>) -> tensor<2x1x32xf32>
    %18 = stablehlo.multiply %17, %17 : tensor<2x1x32xf32>
    %19 = stablehlo.constant dense<0x00000000> : tensor<f32>
    %20 = stablehlo.reduce(%18 init: %19) applies stablehlo.add across dimensions = [2] : (tensor<2x1x32xf32>, tensor<f32>) -> tensor<2x1xf32>
    %21 = stablehlo.constant dense<0x3D000000> : tensor<2x1xf32>
    %22 = stablehlo.multiply %20, %21 : tensor<2x1xf32>
    %23 = stablehlo.constant dense<0x3727C5AC> : tensor<2x1xf32>
    %24 = stablehlo.add %22, %23 : tensor<2x1xf32>
    %25 = stablehlo.rsqrt %24 : tensor<2x1xf32>
    %26 = stablehlo.broadcast_in_dim %25, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1x32xf32>
    %27 = stablehlo.multiply %17, %26 : tensor<2x1x32xf32>
    %28 = stablehlo.constant dense<0x00000000> : tensor<32xf32>
    %29 = stablehlo.add %w1, %28 : tensor<32xf32>
    %30 = stablehlo.broadcast_in_dim %29, dims = [2] : (tensor<32xf32>) -> tensor<2x1x32xf32>
    %31 = stablehlo.multiply %27, %30 : tensor<2x1x32xf32>
    %32 = stablehlo.reshape %31 : (tensor<2x1x32xf32>) -> tensor<2x32xf32>
    %33 = stablehlo.convert %32 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %34 = stablehlo.dot_general %33, %w2, contracting_dims = [1] x [1] : (tensor<2x32xbf16>, tensor<16x32xbf16>) -> tensor<2x16xf32>
    %35 = stablehlo.convert %34 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %36 = stablehlo.dot_general %33, %w3, contracting_dims = [1] x [1] : (tensor<2x32xbf16>, tensor<16x32xbf16>) -> tensor<2x16xf32>
    %37 = stablehlo.convert %36 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %38 = stablehlo.constant dense<[0x3F800000, 0x3DCCCCCD, 0x3C23D70A, 0x3A83126F]> : tensor<4xf32>
    %39 = stablehlo.broadcast_in_dim %38, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
    %40 = stablehlo.convert %positions : (tensor<2xi32>) -> tensor<2xf32>
    %41 = stablehlo.broadcast_in_dim %40, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
    %42 = stablehlo.multiply %41, %39 : tensor<2x4xf32>
    %43 = stablehlo.cosine %42 : tensor<2x4xf32>
    %44 = stablehlo.sine %42 : tensor<2x4xf32>
    %45 = stablehlo.convert %35 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %46 = stablehlo.reshape %45 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %47 = stablehlo.broadcast_in_dim %43, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %48 = stablehlo.broadcast_in_dim %44, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %49 = stablehlo.slice %46 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %50 = stablehlo.slice %46 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %51 = stablehlo.multiply %49, %47 : tensor<2x2x4xf32>
    %52 = stablehlo.multiply %50, %48 : tensor<2x2x4xf32>
    %53 = stablehlo.multiply %50, %47 : tensor<2x2x4xf32>
    %54 = stablehlo.multiply %49, %48 : tensor<2x2x4xf32>
    %55 = stablehlo.subtract %51, %52 : tensor<2x2x4xf32>
    %56 = stablehlo.add %53, %54 : tensor<2x2x4xf32>
    %57 = stablehlo.concatenate %55, %56, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %58 = stablehlo.reshape %57 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %59 = stablehlo.convert %58 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %60 = stablehlo.convert %37 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %61 = stablehlo.reshape %60 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %62 = stablehlo.broadcast_in_dim %43, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %63 = stablehlo.broadcast_in_dim %44, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %64 = stablehlo.slice %61 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %65 = stablehlo.slice %61 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %66 = stablehlo.multiply %64, %62 : tensor<2x2x4xf32>
    %67 = stablehlo.multiply %65, %63 : tensor<2x2x4xf32>
    %68 = stablehlo.multiply %65, %62 : tensor<2x2x4xf32>
    %69 = stablehlo.multiply %64, %63 : tensor<2x2x4xf32>
    %70 = stablehlo.subtract %66, %67 : tensor<2x2x4xf32>
    %71 = stablehlo.add %68, %69 : tensor<2x2x4xf32>
    %72 = stablehlo.concatenate %70, %71, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %73 = stablehlo.reshape %72 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %74 = stablehlo.convert %73 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %75 = stablehlo.reshape %74 : (tensor<2x16xbf16>) -> tensor<2x2x8xbf16>
    %76 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %77 = "stablehlo.scatter"(%keys0, %76, %75) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<144x2x8xbf16>, tensor<2x1xi32>, tensor<2x2x8xbf16>) -> tensor<144x2x8xbf16>
    %78 = stablehlo.reshape %37 : (tensor<2x16xbf16>) -> tensor<2x2x8xbf16>
    %79 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %80 = "stablehlo.scatter"(%values0, %79, %78) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<144x2x8xbf16>, tensor<2x1xi32>, tensor<2x2x8xbf16>) -> tensor<144x2x8xbf16>
    %81 = stablehlo.constant dense<16> : tensor<2xi32>
    %82 = stablehlo.multiply %first_block0, %81 : tensor<2xi32>
    %83 = stablehlo.broadcast_in_dim %82, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %84 = stablehlo.iota dim = 1 : tensor<2x128xi32>
    %85 = stablehlo.add %83, %84 : tensor<2x128xi32>
    %86 = stablehlo.broadcast_in_dim %lengths, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %87 = stablehlo.compare LT, %85, %86, SIGNED : (tensor<2x128xi32>, tensor<2x128xi32>) -> tensor<2x128xi1>
    %88 = stablehlo.broadcast_in_dim %85, dims = [0, 2] : (tensor<2x128xi32>) -> tensor<2x1x128xi32>
    %89 = stablehlo.reshape %positions : (tensor<2xi32>) -> tensor<2x1xi32>
    %90 = stablehlo.broadcast_in_dim %89, dims = [0, 1] : (tensor<2x1xi32>) -> tensor<2x1x128xi32>
    %91 = stablehlo.compare LE, %88, %90, SIGNED : (tensor<2x1x128xi32>, tensor<2x1x128xi32>) -> tensor<2x1x128xi1>
    %92 = stablehlo.reshape %77 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %93 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %94 = "stablehlo.gather"(%92, %93) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xbf16>
    %95 = stablehlo.reshape %94 : (tensor<2x8x16x2x8xbf16>) -> tensor<2x128x2x8xbf16>
    %96 = stablehlo.reshape %80 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %97 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %98 = "stablehlo.gather"(%96, %97) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xbf16>
    %99 = stablehlo.reshape %98 : (tensor<2x8x16x2x8xbf16>) -> tensor<2x128x2x8xbf16>
    %100 = stablehlo.abs %99 : tensor<2x128x2x8xbf16>
    %101 = stablehlo.constant dense<0x7F80> : tensor<2x128x2x8xbf16>
    %102 = stablehlo.compare LT, %100, %101, FLOAT : (tensor<2x128x2x8xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x128x2x8xi1>
    %103 = stablehlo.broadcast_in_dim %87, dims = [0, 1] : (tensor<2x128xi1>) -> tensor<2x128x2x8xi1>
    %104 = stablehlo.and %103, %102 : tensor<2x128x2x8xi1>
    %105 = stablehlo.constant dense<0x0000> : tensor<2x128x2x8xbf16>
    %106 = stablehlo.select %104, %99, %105 : tensor<2x128x2x8xi1>, tensor<2x128x2x8xbf16>
    %107 = stablehlo.not %102 : tensor<2x128x2x8xi1>
    %108 = stablehlo.and %103, %107 : tensor<2x128x2x8xi1>
    %109 = stablehlo.convert %108 : (tensor<2x128x2x8xi1>) -> tensor<2x128x2x8xf32>
    %110 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %111 = stablehlo.reduce(%109 init: %110) applies stablehlo.maximum across dimensions = [3] : (tensor<2x128x2x8xf32>, tensor<f32>) -> tensor<2x128x2xf32>
    %112 = stablehlo.convert %91 : (tensor<2x1x128xi1>) -> tensor<2x1x128xf32>
    %113 = stablehlo.dot_general %112, %111, batching_dims = [0] x [0], contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x1x128xf32>, tensor<2x128x2xf32>) -> tensor<2x1x2xf32>
    %114 = stablehlo.reshape %59 : (tensor<2x16xbf16>) -> tensor<2x1x2x1x8xbf16>
    %115 = stablehlo.dot_general %114, %95, batching_dims = [0, 2] x [0, 2], contracting_dims = [4] x [3] : (tensor<2x1x2x1x8xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x2x1x1x128xf32>
    %116 = stablehlo.constant dense<0x3EB504F4> : tensor<2x2x1x1x128xf32>
    %117 = stablehlo.multiply %115, %116 : tensor<2x2x1x1x128xf32>
    %118 = stablehlo.broadcast_in_dim %91, dims = [0, 2, 4] : (tensor<2x1x128xi1>) -> tensor<2x2x1x1x128xi1>
    %119 = stablehlo.constant dense<0xFF7FFFFF> : tensor<2x2x1x1x128xf32>
    %120 = stablehlo.select %118, %117, %119 : tensor<2x2x1x1x128xi1>, tensor<2x2x1x1x128xf32>
    %121 = stablehlo.reduce(%120 init: %110) applies stablehlo.maximum across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %122 = stablehlo.broadcast_in_dim %121, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %123 = stablehlo.subtract %120, %122 : tensor<2x2x1x1x128xf32>
    %124 = stablehlo.exponential %123 : tensor<2x2x1x1x128xf32>
    %125 = stablehlo.reduce(%124 init: %19) applies stablehlo.add across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %126 = stablehlo.broadcast_in_dim %125, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %127 = stablehlo.divide %124, %126 : tensor<2x2x1x1x128xf32>
    %128 = stablehlo.convert %127 : (tensor<2x2x1x1x128xf32>) -> tensor<2x2x1x1x128xbf16>
    %129 = stablehlo.dot_general %128, %106, batching_dims = [0, 1] x [0, 2], contracting_dims = [4] x [1] : (tensor<2x2x1x1x128xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x2x1x1x8xf32>
    %130 = stablehlo.transpose %129, dims = [0, 2, 1, 3, 4] : (tensor<2x2x1x1x8xf32>) -> tensor<2x1x2x1x8xf32>
    %131 = stablehlo.constant dense<0x00000000> : tensor<2x1x2xf32>
    %132 = stablehlo.compare GT, %113, %131, FLOAT : (tensor<2x1x2xf32>, tensor<2x1x2xf32>) -> tensor<2x1x2xi1>
    %133 = stablehlo.broadcast_in_dim %132, dims = [0, 1, 2] : (tensor<2x1x2xi1>) -> tensor<2x1x2x1x8xi1>
    %134 = stablehlo.constant dense<0x7FC00000> : tensor<2x1x2x1x8xf32>
    %135 = stablehlo.select %133, %134, %130 : tensor<2x1x2x1x8xi1>, tensor<2x1x2x1x8xf32>
    %136 = stablehlo.reshape %135 : (tensor<2x1x2x1x8xf32>) -> tensor<2x16xf32>
    %137 = stablehlo.convert %136 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %138 = stablehlo.convert %137 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %139 = stablehlo.convert %37 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %140 = stablehlo.logistic %138 : tensor<2x16xf32>
    %141 = stablehlo.multiply %138, %140 : tensor<2x16xf32>
    %142 = stablehlo.multiply %141, %139 : tensor<2x16xf32>
    %143 = stablehlo.convert %142 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %144 = stablehlo.dot_general %143, %w4, contracting_dims = [1] x [1] : (tensor<2x16xbf16>, tensor<32x16xbf16>) -> tensor<2x32xf32>
    %145 = stablehlo.convert %144 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %146 = stablehlo.convert %145 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %147 = "stablehlo.all_reduce"(%146) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %148 = stablehlo.convert %147 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %149 = stablehlo.add %15, %148 : tensor<2x32xbf16>
    %150 = stablehlo.reshape %wanted : (tensor<2xi32>) -> tensor<2x1xi32>
    %151 = "stablehlo.gather"(%149, %150) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<2x32xbf16>, tensor<2x1xi32>) -> tensor<2x32xbf16>
    %152 = stablehlo.convert %151 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    return %77, %80, %152 : tensor<144x2x8xbf16>, tensor<144x2x8xbf16>, tensor<2x32xf32>
  }
}
