// Declarations of Apple's Core ML, as its documentation has them and as far as our sources use them; and two functions that
// Foundation brings on Apple's systems alone.

import CoreVideo
import Foundation

public let RUSAGE_SELF: Int32 = 0
public func sysctlbyname(
    _ name: String, _ old: UnsafeMutableRawPointer?, _ oldLength: UnsafeMutablePointer<Int>?,
    _ new: UnsafeMutableRawPointer?, _ newLength: Int
) -> Int32 { fatalError() }
public func autoreleasepool<Result>(invoking body: () throws -> Result) rethrows -> Result { try body() }

public enum MLComputeUnits: Int, Sendable { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }
public final class MLModelConfiguration { public init() {}; public var computeUnits: MLComputeUnits = .all }
public final class MLPredictionOptions { public init() {} }
public final class MLModel {
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}
    public class func load(
        contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()
    ) async throws -> MLModel { fatalError() }
    public class func compileModel(at url: URL) throws -> URL { fatalError() }
    public class func compileModel(at url: URL) async throws -> URL { fatalError() }
    public var modelDescription: MLModelDescription { fatalError() }
    public func prediction(from input: MLFeatureProvider) throws -> MLFeatureProvider { fatalError() }
    // Since iOS 17 and macOS 14; code that is async itself gets this one.
    public func prediction(
        from input: MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> MLFeatureProvider { fatalError() }
}
public final class MLModelDescription {
    public var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
}
public enum MLFeatureType: Int { case invalid, int64, double, string, image, multiArray, dictionary, sequence, state }
public final class MLFeatureDescription {
    public var name: String { fatalError() }
    public var type: MLFeatureType { fatalError() }
    public var multiArrayConstraint: MLMultiArrayConstraint? { fatalError() }
    public var imageConstraint: MLImageConstraint? { fatalError() }
}
public final class MLMultiArrayConstraint {
    public var shape: [NSNumber] { fatalError() }
    public var dataType: MLMultiArrayDataType { fatalError() }
}
public final class MLImageConstraint {
    public var pixelsHigh: Int { fatalError() }
    public var pixelsWide: Int { fatalError() }
    public var pixelFormatType: OSType { fatalError() }
}
public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}
public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    public var featureNames: Set<String> { fatalError() }
    public func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}
public final class MLFeatureValue {
    public init(multiArray value: MLMultiArray) {}
    public init(pixelBuffer value: CVPixelBuffer) {}
    public var multiArrayValue: MLMultiArray? { fatalError() }
    public var dictionaryValue: [AnyHashable: NSNumber] { fatalError() }
}
public enum MLMultiArrayDataType: Int { case double = 65600, float32 = 65568, float16 = 65552, int32 = 131104, int8 = 131080 }
public protocol MLShapedArrayScalar {}
extension Double: MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}
extension Float16: MLShapedArrayScalar {}
extension Int32: MLShapedArrayScalar {}
public final class MLMultiArray {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {}
    public var count: Int { fatalError() }
    public var dataType: MLMultiArrayDataType { fatalError() }
    public var shape: [NSNumber] { fatalError() }
    public var strides: [NSNumber] { fatalError() }
    public subscript(index: Int) -> NSNumber {
        get { fatalError() }
        set {}
    }
    public func withUnsafeBufferPointer<S: MLShapedArrayScalar, R>(
        ofType type: S.Type, _ body: (UnsafeBufferPointer<S>) throws -> R
    ) rethrows -> R { fatalError() }
    public func withUnsafeMutableBufferPointer<S: MLShapedArrayScalar, R>(
        ofType type: S.Type, _ body: (UnsafeMutableBufferPointer<S>, [Int]) throws -> R
    ) rethrows -> R { fatalError() }
}
