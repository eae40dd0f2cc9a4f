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
    %0 = stablehlo.optimization_barrier %w0_first : tensor<i32>
    %1 = stablehlo.broadcast_in_dim %0, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %2 = stablehlo.subtract %tokens, %1 : tensor<2xi32>
    %3 = stablehlo.constant dense<0> : tensor<i32>
    %4 = stablehlo.optimization_barrier %3 : tensor<i32>
    %5 = stablehlo.broadcast_in_dim %4, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %6 = stablehlo.constant dense<11> : tensor<i32>
    %7 = stablehlo.optimization_barrier %6 : tensor<i32>
    %8 = stablehlo.broadcast_in_dim %7, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %9 = stablehlo.compare GE, %2, %5, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %10 = stablehlo.compare LE, %2, %8, SIGNED : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi1>
    %11 = stablehlo.and %9, %10 : tensor<2xi1>
    %12 = stablehlo.select %11, %2, %5 : tensor<2xi1>, tensor<2xi32>
    %13 = stablehlo.reshape %12 : (tensor<2xi32>) -> tensor<2x1xi32>
    %14 = "stablehlo.gather"(%w0, %13) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<12x32xbf16>, tensor<2x1xi32>) -> tensor<2x32xbf16>
    %15 = stablehlo.broadcast_in_dim %11, dims = [0] : (tensor<2xi1>) -> tensor<2x32xi1>
    %16 = stablehlo.constant dense<0x0000> : tensor<2x32xbf16>
    %17 = stablehlo.select %15, %14, %16 : tensor<2x32xi1>, tensor<2x32xbf16>
    %18 = stablehlo.convert %17 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %19 = "stablehlo.all_reduce"(%18) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %20 = stablehlo.convert %19 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %21 = stablehlo.convert %20 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %22 = stablehlo.reshape %21 : (tensor<2x32xf32>) -> tensor<2x1x32xf32>
    %23 = stablehlo.multiply %22, %22 : tensor<2x1x32xf32>
    %24 = stablehlo.constant dense<0x00000000> : tensor<f32>
    %25 = stablehlo.reduce(%23 init: %24) applies stablehlo.add across dimensions = [2] : (tensor<2x1x32xf32>, tensor<f32>) -> tensor<2x1xf32>
    %26 = stablehlo.constant dense<0x3D000000> : tensor<2x1xf32>
    %27 = stablehlo.multiply %25, %26 : tensor<2x1xf32>
    %28 = stablehlo.constant dense<0x3727C5AC> : tensor<2x1xf32>
    %29 = stablehlo.add %27, %28 : tensor<2x1xf32>
    %30 = stablehlo.rsqrt %29 : tensor<2x1xf32>
    %31 = stablehlo.broadcast_in_dim %30, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1x32xf32>
    %32 = stablehlo.multiply %22, %31 : tensor<2x1x32xf32>
    %33 = stablehlo.constant dense<0x00000000> : tensor<32xf32>
    %34 = stablehlo.add %w1, %33 : tensor<32xf32>
    %35 = stablehlo.broadcast_in_dim %34, dims = [2] : (tensor<32xf32>) -> tensor<2x1x32xf32>
    %36 = stablehlo.multiply %32, %35 : tensor<2x1x32xf32>
    %37 = stablehlo.reshape %36 : (tensor<2x1x32xf32>) -> tensor<2x32xf32>
    %38 = stablehlo.convert %37 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %39 = stablehlo.dot_general %38, %w2, contracting_dims = [1] x [1] : (tensor<2x32xbf16>, tensor<16x32xbf16>) -> tensor<2x16xf32>
    %40 = stablehlo.convert %39 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %41 = stablehlo.dot_general %38, %w3, contracting_dims = [1] x [1] : (tensor<2x32xbf16>, tensor<16x32xbf16>) -> tensor<2x16xf32>
    %42 = stablehlo.convert %41 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %43 = stablehlo.constant dense<[0x3F800000, 0x3DCCCCCD, 0x3C23D70A, 0x3A83126F]> : tensor<4xf32>
    %44 = stablehlo.broadcast_in_dim %43, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
    %45 = stablehlo.convert %positions : (tensor<2xi32>) -> tensor<2xf32>
    %46 = stablehlo.broadcast_in_dim %45, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
    %47 = stablehlo.multiply %46, %44 : tensor<2x4xf32>
    %48 = stablehlo.cosine %47 : tensor<2x4xf32>
    %49 = stablehlo.sine %47 : tensor<2x4xf32>
    %50 = stablehlo.convert %40 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %51 = stablehlo.reshape %50 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %52 = stablehlo.broadcast_in_dim %48, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %53 = stablehlo.broadcast_in_dim %49, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %54 = stablehlo.slice %51 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %55 = stablehlo.slice %51 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %56 = stablehlo.multiply %54, %52 : tensor<2x2x4xf32>
    %57 = stablehlo.multiply %55, %53 : tensor<2x2x4xf32>
    %58 = stablehlo.multiply %55, %52 : tensor<2x2x4xf32>
    %59 = stablehlo.multiply %54, %53 : tensor<2x2x4xf32>
    %60 = stablehlo.subtract %56, %57 : tensor<2x2x4xf32>
    %61 = stablehlo.add %58, %59 : tensor<2x2x4xf32>
    %62 = stablehlo.concatenate %60, %61, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %63 = stablehlo.reshape %62 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %64 = stablehlo.convert %63 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %65 = stablehlo.convert %42 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %66 = stablehlo.reshape %65 : (tensor<2x16xf32>) -> tensor<2x2x8xf32>
    %67 = stablehlo.broadcast_in_dim %48, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %68 = stablehlo.broadcast_in_dim %49, dims = [0, 2] : (tensor<2x4xf32>) -> tensor<2x2x4xf32>
    %69 = stablehlo.slice %66 [0:2, 0:2, 0:4] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %70 = stablehlo.slice %66 [0:2, 0:2, 4:8] : (tensor<2x2x8xf32>) -> tensor<2x2x4xf32>
    %71 = stablehlo.multiply %69, %67 : tensor<2x2x4xf32>
    %72 = stablehlo.multiply %70, %68 : tensor<2x2x4xf32>
    %73 = stablehlo.multiply %70, %67 : tensor<2x2x4xf32>
    %74 = stablehlo.multiply %69, %68 : tensor<2x2x4xf32>
    %75 = stablehlo.subtract %71, %72 : tensor<2x2x4xf32>
    %76 = stablehlo.add %73, %74 : tensor<2x2x4xf32>
    %77 = stablehlo.concatenate %75, %76, dim = 2 : (tensor<2x2x4xf32>, tensor<2x2x4xf32>) -> tensor<2x2x8xf32>
    %78 = stablehlo.reshape %77 : (tensor<2x2x8xf32>) -> tensor<2x16xf32>
    %79 = stablehlo.convert %78 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %80 = stablehlo.reshape %79 : (tensor<2x16xbf16>) -> tensor<2x2x8xbf16>
    %81 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %82 = "stablehlo.scatter"(%keys0, %81, %80) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<144x2x8xbf16>, tensor<2x1xi32>, tensor<2x2x8xbf16>) -> tensor<144x2x8xbf16>
    %83 = stablehlo.reshape %42 : (tensor<2x16xbf16>) -> tensor<2x2x8xbf16>
    %84 = stablehlo.reshape %slots0 : (tensor<2xi32>) -> tensor<2x1xi32>
    %85 = "stablehlo.scatter"(%values0, %84, %83) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1, 2], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = false, indices_are_sorted = false}> ({
    ^bb0(%a: tensor<bf16>, %b: tensor<bf16>):
      stablehlo.return %b : tensor<bf16>
    }) : (tensor<144x2x8xbf16>, tensor<2x1xi32>, tensor<2x2x8xbf16>) -> tensor<144x2x8xbf16>
    %86 = stablehlo.constant dense<16> : tensor<i32>
    %87 = stablehlo.optimization_barrier %86 : tensor<i32>
    %88 = stablehlo.broadcast_in_dim %87, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %89 = stablehlo.multiply %first_block0, %88 : tensor<2xi32>
    %90 = stablehlo.broadcast_in_dim %89, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %91 = stablehlo.iota dim = 1 : tensor<2x128xi32>
    %92 = stablehlo.add %90, %91 : tensor<2x128xi32>
    %93 = stablehlo.broadcast_in_dim %lengths, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
    %94 = stablehlo.compare LT, %92, %93, SIGNED : (tensor<2x128xi32>, tensor<2x128xi32>) -> tensor<2x128xi1>
    %95 = stablehlo.broadcast_in_dim %92, dims = [0, 2] : (tensor<2x128xi32>) -> tensor<2x1x128xi32>
    %96 = stablehlo.reshape %positions : (tensor<2xi32>) -> tensor<2x1xi32>
    %97 = stablehlo.broadcast_in_dim %96, dims = [0, 1] : (tensor<2x1xi32>) -> tensor<2x1x128xi32>
    %98 = stablehlo.compare LE, %95, %97, SIGNED : (tensor<2x1x128xi32>, tensor<2x1x128xi32>) -> tensor<2x1x128xi1>
    %99 = stablehlo.reshape %82 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %100 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %101 = "stablehlo.gather"(%99, %100) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xbf16>
    %102 = stablehlo.reshape %101 : (tensor<2x8x16x2x8xbf16>) -> tensor<2x128x2x8xbf16>
    %103 = stablehlo.reshape %85 : (tensor<144x2x8xbf16>) -> tensor<9x16x2x8xbf16>
    %104 = stablehlo.reshape %table0 : (tensor<2x8xi32>) -> tensor<2x8x1xi32>
    %105 = "stablehlo.gather"(%103, %104) <{dimension_numbers = #stablehlo.gather<offset_dims = [2, 3, 4], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, slice_sizes = array<i64: 1, 16, 2, 8>, indices_are_sorted = false}> : (tensor<9x16x2x8xbf16>, tensor<2x8x1xi32>) -> tensor<2x8x16x2x8xbf16>
    %106 = stablehlo.reshape %105 : (tensor<2x8x16x2x8xbf16>) -> tensor<2x128x2x8xbf16>
    %107 = stablehlo.abs %106 : tensor<2x128x2x8xbf16>
    %108 = stablehlo.constant dense<0x7F80> : tensor<2x128x2x8xbf16>
    %109 = stablehlo.compare LT, %107, %108, FLOAT : (tensor<2x128x2x8xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x128x2x8xi1>
    %110 = stablehlo.broadcast_in_dim %94, dims = [0, 1] : (tensor<2x128xi1>) -> tensor<2x128x2x8xi1>
    %111 = stablehlo.and %110, %109 : tensor<2x128x2x8xi1>
    %112 = stablehlo.constant dense<0x0000> : tensor<2x128x2x8xbf16>
    %113 = stablehlo.select %111, %106, %112 : tensor<2x128x2x8xi1>, tensor<2x128x2x8xbf16>
    %114 = stablehlo.not %109 : tensor<2x128x2x8xi1>
    %115 = stablehlo.and %110, %114 : tensor<2x128x2x8xi1>
    %116 = stablehlo.convert %115 : (tensor<2x128x2x8xi1>) -> tensor<2x128x2x8xf32>
    %117 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %118 = stablehlo.reduce(%116 init: %117) applies stablehlo.maximum across dimensions = [3] : (tensor<2x128x2x8xf32>, tensor<f32>) -> tensor<2x128x2xf32>
    %119 = stablehlo.convert %98 : (tensor<2x1x128xi1>) -> tensor<2x1x128xf32>
    %120 = stablehlo.dot_general %119, %118, batching_dims = [0] x [0], contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<2x1x128xf32>, tensor<2x128x2xf32>) -> tensor<2x1x2xf32>
    %121 = stablehlo.reshape %64 : (tensor<2x16xbf16>) -> tensor<2x1x2x1x8xbf16>
    %122 = stablehlo.dot_general %121, %102, batching_dims = [0, 2] x [0, 2], contracting_dims = [4] x [3] : (tensor<2x1x2x1x8xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x2x1x1x128xf32>
    %123 = stablehlo.constant dense<0x3EB504F4> : tensor<2x2x1x1x128xf32>
    %124 = stablehlo.multiply %122, %123 : tensor<2x2x1x1x128xf32>
    %125 = stablehlo.broadcast_in_dim %98, dims = [0, 2, 4] : (tensor<2x1x128xi1>) -> tensor<2x2x1x1x128xi1>
    %126 = stablehlo.constant dense<0xFF7FFFFF> : tensor<2x2x1x1x128xf32>
    %127 = stablehlo.select %125, %124, %126 : tensor<2x2x1x1x128xi1>, tensor<2x2x1x1x128xf32>
    %128 = stablehlo.reduce(%127 init: %117) applies stablehlo.maximum across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %129 = stablehlo.broadcast_in_dim %128, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %130 = stablehlo.subtract %127, %129 : tensor<2x2x1x1x128xf32>
    %131 = stablehlo.exponential %130 : tensor<2x2x1x1x128xf32>
    %132 = stablehlo.reduce(%131 init: %24) applies stablehlo.add across dimensions = [4] : (tensor<2x2x1x1x128xf32>, tensor<f32>) -> tensor<2x2x1x1xf32>
    %133 = stablehlo.broadcast_in_dim %132, dims = [0, 1, 2, 3] : (tensor<2x2x1x1xf32>) -> tensor<2x2x1x1x128xf32>
    %134 = stablehlo.divide %131, %133 : tensor<2x2x1x1x128xf32>
    %135 = stablehlo.convert %134 : (tensor<2x2x1x1x128xf32>) -> tensor<2x2x1x1x128xbf16>
    %136 = stablehlo.dot_general %135, %113, batching_dims = [0, 1] x [0, 2], contracting_dims = [4] x [1] : (tensor<2x2x1x1x128xbf16>, tensor<2x128x2x8xbf16>) -> tensor<2x2x1x1x8xf32>
    %137 = stablehlo.transpose %136, dims = [0, 2, 1, 3, 4] : (tensor<2x2x1x1x8xf32>) -> tensor<2x1x2x1x8xf32>
    %138 = stablehlo.constant dense<0x00000000> : tensor<2x1x2xf32>
    %139 = stablehlo.compare GT, %120, %138, FLOAT : (tensor<2x1x2xf32>, tensor<2x1x2xf32>) -> tensor<2x1x2xi1>
    %140 = stablehlo.broadcast_in_dim %139, dims = [0, 1, 2] : (tensor<2x1x2xi1>) -> tensor<2x1x2x1x8xi1>
    %141 = stablehlo.constant dense<0x7FC00000> : tensor<2x1x2x1x8xf32>
    %142 = stablehlo.select %140, %141, %137 : tensor<2x1x2x1x8xi1>, tensor<2x1x2x1x8xf32>
    %143 = stablehlo.reshape %142 : (tensor<2x1x2x1x8xf32>) -> tensor<2x16xf32>
    %144 = stablehlo.convert %143 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %145 = stablehlo.convert %144 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %146 = stablehlo.convert %42 : (tensor<2x16xbf16>) -> tensor<2x16xf32>
    %147 = stablehlo.logistic %145 : tensor<2x16xf32>
    %148 = stablehlo.multiply %145, %147 : tensor<2x16xf32>
    %149 = stablehlo.multiply %148, %146 : tensor<2x16xf32>
    %150 = stablehlo.convert %149 : (tensor<2x16xf32>) -> tensor<2x16xbf16>
    %151 = stablehlo.dot_general %150, %w4, contracting_dims = [1] x [1] : (tensor<2x16xbf16>, tensor<32x16xbf16>) -> tensor<2x32xf32>
    %152 = stablehlo.convert %151 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %153 = stablehlo.convert %152 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    %154 = "stablehlo.all_reduce"(%153) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<2x32xf32>) -> tensor<2x32xf32>
    %155 = stablehlo.convert %154 : (tensor<2x32xf32>) -> tensor<2x32xbf16>
    %156 = stablehlo.add %20, %155 : tensor<2x32xbf16>
    %157 = stablehlo.reshape %wanted : (tensor<2xi32>) -> tensor<2x1xi32>
    %158 = "stablehlo.gather"(%156, %157) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 32>, indices_are_sorted = false}> : (tensor<2x32xbf16>, tensor<2x1xi32>) -> tensor<2x32xbf16>
    %159 = stablehlo.convert %158 : (tensor<2x32xbf16>) -> tensor<2x32xf32>
    return %82, %85, %159 : tensor<144x2x8xbf16>, tensor<144x2x8xbf16>, tensor<2x32xf32>
  }
}
