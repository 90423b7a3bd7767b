"""What Numba's code asks of its run time, in LLVM's intermediate code: above all memory that counts its references.

An owner is ``{references, free, destructor of items, address, size, unused}`` like Numba's. That of an array is one
piece with its memory; that of a list has it apart, and ``free`` in its second word.
"""

from __future__ import annotations

MEMORY = """
%owner = type { i64, ptr, ptr, ptr, i64, ptr }

declare ptr @malloc(i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare void @NRT_decref(ptr)

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %step = zext i32 %align to i64
  %part = add i64 %size, 48
  %whole = add i64 %part, %step
  %new = call ptr @malloc(i64 %whole)
  %none = icmp eq ptr %new, null
  br i1 %none, label %end, label %fill
fill:
  %start = ptrtoint ptr %new to i64
  %behind = add i64 %start, 48
  %more = sub i64 %step, 1
  %up = add i64 %behind, %more
  %down = sub i64 0, %step
  %aligned = and i64 %up, %down
  %address = inttoptr i64 %aligned to ptr
  store i64 1, ptr %new
  %place1 = getelementptr %owner, ptr %new, i32 0, i32 1
  store ptr null, ptr %place1
  %place2 = getelementptr %owner, ptr %new, i32 0, i32 2
  store ptr null, ptr %place2
  %place3 = getelementptr %owner, ptr %new, i32 0, i32 3
  store ptr %address, ptr %place3
  %place4 = getelementptr %owner, ptr %new, i32 0, i32 4
  store i64 %size, ptr %place4
  %place5 = getelementptr %owner, ptr %new, i32 0, i32 5
  store ptr null, ptr %place5
  ret ptr %new
end:
  ret ptr null
}

define ptr @NRT_MemInfo_alloc(i64 %size) {
  %new = call ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 16)
  ret ptr %new
}

define ptr @NRT_MemInfo_new_varsize_dtor(i64 %size, ptr %destructor) {
  %new = call ptr @NRT_MemInfo_alloc_aligned(i64 0, i32 16)
  %none = icmp eq ptr %new, null
  br i1 %none, label %end, label %fill
fill:
  %address = call ptr @malloc(i64 %size)
  %place1 = getelementptr %owner, ptr %new, i32 0, i32 1
  store ptr @free, ptr %place1
  %place2 = getelementptr %owner, ptr %new, i32 0, i32 2
  store ptr %destructor, ptr %place2
  %place3 = getelementptr %owner, ptr %new, i32 0, i32 3
  store ptr %address, ptr %place3
  %place4 = getelementptr %owner, ptr %new, i32 0, i32 4
  store i64 %size, ptr %place4
  %empty = icmp eq ptr %address, null
  br i1 %empty, label %back, label %good
good:
  ret ptr %new
back:
  call void @free(ptr %new)
  br label %end
end:
  ret ptr null
}

define ptr @NRT_MemInfo_varsize_realloc(ptr %owner, i64 %size) {
  %place3 = getelementptr %owner, ptr %owner, i32 0, i32 3
  %old = load ptr, ptr %place3
  %address = call ptr @realloc(ptr %old, i64 %size)
  %none = icmp eq ptr %address, null
  br i1 %none, label %end, label %fill
fill:
  store ptr %address, ptr %place3
  %place4 = getelementptr %owner, ptr %owner, i32 0, i32 4
  store i64 %size, ptr %place4
  ret ptr %address
end:
  ret ptr null
}

define void @NRT_MemInfo_call_dtor(ptr %owner) {
  %place1 = getelementptr %owner, ptr %owner, i32 0, i32 1
  %apart = load ptr, ptr %place1
  %together = icmp eq ptr %apart, null
  br i1 %together, label %end, label %list
list:
  %place2 = getelementptr %owner, ptr %owner, i32 0, i32 2
  %destructor = load ptr, ptr %place2
  %place3 = getelementptr %owner, ptr %owner, i32 0, i32 3
  %address = load ptr, ptr %place3
  %plain = icmp eq ptr %destructor, null
  br i1 %plain, label %memory, label %items
items:
  call void %destructor(ptr %address)
  br label %memory
memory:
  call void @free(ptr %address)
  br label %end
end:
  call void @free(ptr %owner)
  ret void
}

define ptr @NRT_Allocate(i64 %size) {
  %new = call ptr @malloc(i64 %size)
  ret ptr %new
}

define void @NRT_Free(ptr %address) {
  call void @free(ptr %address)
  ret void
}

; Strides of another shape of an array that is contiguous: 1, or 0 where it is not.
define i32 @numba_attempt_nocopy_reshape(i64 %n, ptr %shape, ptr %strides, i64 %new_n, ptr %new_shape, ptr %new_strides,
                                         i64 %size, i32 %fortran) {
  %last = sub i64 %n, 1
  br label %check
check:
  %i = phi i64 [ %last, %0 ], [ %i_next, %next ]
  %step = phi i64 [ %size, %0 ], [ %step_next, %next ]
  %checked = icmp slt i64 %i, 0
  br i1 %checked, label %good, label %look
look:
  %length_at = getelementptr i64, ptr %shape, i64 %i
  %length = load i64, ptr %length_at
  %stride_at = getelementptr i64, ptr %strides, i64 %i
  %stride = load i64, ptr %stride_at
  %single = icmp eq i64 %length, 1
  %close = icmp eq i64 %stride, %step
  %fits = or i1 %single, %close
  br i1 %fits, label %next, label %bad
next:
  %step_next = mul i64 %step, %length
  %i_next = sub i64 %i, 1
  br label %check
good:
  %new_last = sub i64 %new_n, 1
  br label %fill
fill:
  %j = phi i64 [ %new_last, %good ], [ %j_next, %set ]
  %new_step = phi i64 [ %size, %good ], [ %new_step_next, %set ]
  %filled = icmp slt i64 %j, 0
  br i1 %filled, label %end, label %set
set:
  %new_stride_at = getelementptr i64, ptr %new_strides, i64 %j
  store i64 %new_step, ptr %new_stride_at
  %new_length_at = getelementptr i64, ptr %new_shape, i64 %j
  %new_length = load i64, ptr %new_length_at
  %new_step_next = mul i64 %new_step, %new_length
  %j_next = sub i64 %j, 1
  br label %fill
end:
  ret i32 1
bad:
  ret i32 0
}

; What an error would be made of in Python: nobody asks for it, a status says that there is one.
@PyExc_RuntimeError = global ptr null
define void @PyErr_SetString(ptr %kind, ptr %text) {
  ret void
}
define i64 @PyObject_Hash(ptr %object) {
  ret i64 0
}
define ptr @PyTuple_Pack(i64 %n, ...) {
  ret ptr null
}
define ptr @PyUnicode_FromKindAndData(i32 %kind, ptr %data, i64 %size) {
  ret ptr null
}

define void @"glint.release"(ptr %owner) {
  call void @NRT_decref(ptr %owner)
  ret void
}
"""
