// Numbers into and out of Core ML's arrays, of any element type and any strides: what the Neural Engine returns may
// have gaps between its rows.

#if canImport(CoreML)
import CoreML
import Foundation
import QtoolsPreparation

func multiArray(_ numbers: [Float], shape: [Int], type: MLMultiArrayDataType) throws -> MLMultiArray {
    let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: type)
    guard array.count == numbers.count else {
        throw Mismatch(what: "\(numbers.count) numbers do not fill an array of \(array.count)")
    }
    switch type {
    case .float32: put(numbers, into: array) { $0 }
    case .double: put(numbers, into: array) { Double($0) }
    case .int32: put(numbers, into: array) { Int32($0) }
    #if arch(arm64)
    case .float16: put(numbers, into: array) { Float16($0) }
    #endif
    default: throw Mismatch(what: "arrays of type \(type.rawValue) are not fed here")
    }
    return array
}

func floats(of array: MLMultiArray) throws -> [Float] {
    switch array.dataType {
    case .float32: return taken(array) { (number: Float) in number }
    case .double: return taken(array) { (number: Double) in Float(number) }
    case .int32: return taken(array) { (number: Int32) in Float(number) }
    #if arch(arm64)
    case .float16: return taken(array) { (number: Float16) in Float(number) }
    #endif
    default: throw Mismatch(what: "arrays of type \(array.dataType.rawValue) are not read here")
    }
}

private func put<Scalar: MLShapedArrayScalar>(
    _ numbers: [Float], into array: MLMultiArray, as converted: (Float) -> Scalar
) {
    let shape = array.shape.map { $0.intValue }
    array.withUnsafeMutableBufferPointer(ofType: Scalar.self) { memory, strides in
        for (number, place) in zip(numbers, places(shape: shape, strides: strides)) {
            memory[place] = converted(number)
        }
    }
}

private func taken<Scalar: MLShapedArrayScalar>(_ array: MLMultiArray, as converted: (Scalar) -> Float) -> [Float] {
    let order = places(shape: array.shape.map { $0.intValue }, strides: array.strides.map { $0.intValue })
    return array.withUnsafeBufferPointer(ofType: Scalar.self) { memory in
        order.map { converted(memory[$0]) }
    }
}
#endif
